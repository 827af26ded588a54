"""What runs a plan's steps, one file a backend."""

"""What runs a plan on an NVIDIA GPU: an executor, its memory, its captures, and a watchdog."""

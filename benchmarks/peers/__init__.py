"""What a user would run instead of graphopt on a CPU, behind one small interface."""

"""Graph to graph: rewrites, partition and the memory plan."""

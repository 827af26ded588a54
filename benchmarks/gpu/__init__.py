"""Kernels for a GPU: whether they are right, and how fast beside the machine and their peers."""

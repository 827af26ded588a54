"""Regions to kernels."""

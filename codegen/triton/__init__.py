"""Regions to Triton kernels, and those to cubins, with no GPU in sight.

Importing this package does not import Triton; what needs it does so when it is called.
"""

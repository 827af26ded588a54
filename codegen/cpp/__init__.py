"""C++ kernels for the CPU: regions to source, source to one shared object per instruction set."""

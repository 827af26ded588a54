"""What runs a plan on an NVIDIA GPU: the executor, its memory, launches, captures and a watchdog."""

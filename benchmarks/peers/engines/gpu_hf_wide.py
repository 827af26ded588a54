"""transformers in float32: what others are compared with."""

from __future__ import annotations

from benchmarks.peers.engines import gpu_hf


class Engine(gpu_hf.Engine):
    """`path` is a checkpoint."""

    dtype = "float32"

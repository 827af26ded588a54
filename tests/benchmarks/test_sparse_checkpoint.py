"""A checkpoint of holes opens and binds like a real one, and takes no disk."""

from __future__ import annotations

from pathlib import Path

from benchmarks.sparse_checkpoint import LLAMA_8B, llama_shapes, write_sparse_llama
from graphopt.frontend.checkpoint import Checkpoint


def test_it_has_eight_billion_parameters_and_no_bytes(tmp_path: Path) -> None:
    folder = write_sparse_llama(tmp_path)
    source = Checkpoint.open(folder)
    count = 0
    for name, shape in llama_shapes(LLAMA_8B).items():
        assert source.index.info(name).shape == shape
        total = 1
        for size in shape:
            total *= size
        count += total
    assert count == 8_030_261_248
    taken = sum(file.stat().st_blocks * 512 for file in folder.iterdir())
    assert taken < 10_000_000

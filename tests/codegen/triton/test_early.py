"""Programs ask for what they read first, and for nothing beyond their weights."""

from __future__ import annotations

import numpy as np
import pytest

from graphopt.codegen.triton.early import (
    CACHE_LINE,
    SMALL_BYTES,
    of_all,
    of_chunks,
    of_rows,
    small_count,
)
from graphopt.gpu_packing import CHUNK_ROWS, GpuPacking
from graphopt.ir.dtype import DType
from graphopt.ir.shape import sym
from graphopt.ir.types import StateType, TensorType

from .asked import places_of


@pytest.mark.parametrize(("itemsize", "split", "steps"), [(2, 4, 3), (1, 1, 5), (4, 8, 1)])
def test_rows_are_asked_for_line_by_line(itemsize: int, split: int, steps: int) -> None:
    depth, block = 64, 16
    n, k = 45, split * steps * depth - 20  # neither of whole tiles
    constants = {"BLOCK_N": block, "BLOCK_K": depth, "STEPS": steps, "SPLIT": split}
    line = of_rows("w + 7", row=2 * k, width=n, k=k, itemsize=itemsize)
    step = CACHE_LINE // itemsize
    asked = set()
    for program in np.ndindex(-(-n // block), split):
        found = places_of(line, constants, program) - 7
        rows, columns = np.divmod(found, 2 * k)
        assert found.min() >= 0
        assert rows.max() < n
        assert columns.max() < k
        first, least = program[0] * block, program[1] * steps * depth
        assert set(rows) == {min(row, n - 1) for row in range(first, first + block)}
        wanted = range(least, least + min(steps, 2) * depth, step)
        assert set(columns) == {min(column, k - 1) for column in wanted}
        asked |= set(found)
    assert len(asked) >= split * n


def test_axes_of_programs_are_the_kernels() -> None:
    constants = {"BLOCK_N": 16, "BLOCK_K": 128, "STEPS": 2}
    given = {"block": "tl.program_id(1)", "split": "tl.program_id(2)"}
    line = of_rows("w", row=1024, width=64, k=1024, itemsize=1, **given)
    found = places_of(line, constants, (9, 1, 2))
    assert sorted(found) == [r * 1024 + c for r in range(16, 32) for c in (512, 640)]


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("group", [32, 128, 0])
@pytest.mark.parametrize(("block", "steps"), [(32, 1), (32, 2), (64, 3), (64, 5)])
def test_chunks_are_asked_for_as_they_lie(bits: int, group: int, block: int, steps: int) -> None:
    k = 900
    packing = GpuPacking(150, k, bits, group or k, ((0, 100, 1), (100, 150, 1)))
    scales = packing.scales
    split = -(-packing.steps // steps)
    constants = {"BLOCK_N": block, "BLOCK_K": packing.depth, "STEPS": steps}
    for first, chunks in ((0, 2), (2, 1)):
        lines = of_chunks("w", "s", packing, first)
        for program in np.ndindex(1, chunks * CHUNK_ROWS // block, split):
            data, factors = (places_of(line, constants, program) for line in lines)
            chunk, step, row, _ = np.unravel_index(data, packing.shape)  # raises beyond the end
            start = program[1] * block
            assert set(chunk) == {first + start // CHUNK_ROWS}
            last = min(packing.steps, steps * program[2] + min(steps, 4))
            assert set(step) == set(range(steps * program[2], last))
            assert set(row) <= set(range(start % CHUNK_ROWS, start % CHUNK_ROWS + block))
            # Each line of the tile once, and none twice but where there is no second step.
            lines_asked = {int(place) // CACHE_LINE for place in data}
            assert len(lines_asked) == len(set(step)) * block * packing.depth // CACHE_LINE
            chunk, step, half, row = np.unravel_index(factors, scales.shape)
            assert set(chunk) == {first + start // CHUNK_ROWS}
            assert set(row) == {0}
            if not packing.is_whole:
                assert set(step) == set(range(steps * program[2], last))
                assert set(half) == set(range(packing.halves))


@pytest.mark.parametrize("count", [1, 63, 64, 65, 4096])
def test_small_weights_are_asked_for_as_a_whole(count: int) -> None:
    found = places_of(of_all("w", count, 2), {}, (5,))
    assert found.max() < count
    assert {int(place) // 64 for place in found} == set(range(-(-count // 64)))


def test_which_weights_are_small() -> None:
    assert small_count(TensorType(DType.BF16, (2048,))) == 2048
    assert small_count(TensorType(DType.F32, (2, 3, 4))) == 24
    assert small_count(TensorType(DType.BF16, (SMALL_BYTES // 2,))) == SMALL_BYTES // 2
    assert small_count(TensorType(DType.BF16, (SMALL_BYTES // 2 + 1,))) == 0
    assert small_count(TensorType(DType.BF16, (0,))) == 0
    assert small_count(TensorType(DType.BF16, (sym("T"),))) == 0
    # Packed weights lie otherwise than their types say.
    for dtype in (DType.I8, DType.U8, DType.F8E4M3):
        assert small_count(TensorType(dtype, (64,))) == 0
    assert small_count(StateType("kv", ())) == 0

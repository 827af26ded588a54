"""What is packed for a GPU comes back, and lies where kernels look for it."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.errors import ArtifactError, IRError
from graphopt.gpu_packing import (
    CHUNK_ROWS,
    GROUPS,
    GpuPacking,
    pack_chunks,
    pack_weight,
    unpack_chunks,
)
from graphopt.packing import Array


def random_weight(packing: GpuPacking, seed: int) -> tuple[Array, Array]:
    random = np.random.default_rng(seed)
    limit = 1 << (packing.bits - 1)
    integers = random.integers(-limit, limit, (packing.rows, packing.columns), dtype=np.int8)
    scales = random.standard_normal((packing.rows, packing.groups)).astype(np.float16)
    return integers, scales


def parts_of(rows: int, kind: str) -> tuple[tuple[int, int, int], ...]:
    half = rows // 2
    return {
        "whole": ((0, rows, 1),),
        "halves": ((0, half, 1), (half, rows, 1)),
        "turned": ((half, rows, 1), (0, half, 1)),
        "every second": ((0, rows, 2), (1, rows, 2)),
    }[kind]


@settings(max_examples=60, deadline=None)
@given(
    rows=st.sampled_from([2, 44, 64, 130, 200]),
    columns=st.sampled_from([1, 31, 64, 97, 256, 300]),
    bits=st.sampled_from([8, 4]),
    group=st.sampled_from((*GROUPS, 300)),
    kind=st.sampled_from(["whole", "halves", "turned", "every second"]),
    seed=st.integers(0, 99),
)
def test_what_is_packed_comes_back(
    rows: int, columns: int, bits: int, group: int, kind: str, seed: int
) -> None:
    packing = GpuPacking(rows, columns, bits, group, parts_of(rows, kind))
    integers, scales = random_weight(packing, seed)
    stored, factors = pack_weight(integers, scales, packing)
    for given_, made, own in (
        (integers, stored, packing),
        (scales, factors, packing.scales),
    ):
        assert made.shape == own.shape
        assert (given_.shape, own.dtype.value) == (own.plain, "f16" if own.is_scales else "i8")
        back = unpack_chunks(made, own)
        assert back.dtype == given_.dtype
        assert np.array_equal(back, given_)
        read = GpuPacking.from_json(json.loads(json.dumps(own.to_json())))
        assert read == own


def test_rows_with_one_scale_each() -> None:
    packing = GpuPacking.whole(70, 300, 4, 300)
    integers, scales = random_weight(packing, 0)
    stored, factors = pack_weight(integers, scales, packing)
    assert stored.shape == GpuPacking.whole(70, 300, 4, 64).shape == (2, 3, 64, 64)
    assert factors.shape == (2, 1, 1, 64)
    assert (factors[1, 0, 0, 5], factors[1, 0, 0, 6]) == (scales[69, 0], 0)


@pytest.mark.parametrize("group", GROUPS)
def test_where_a_column_lies(group: int) -> None:
    rows, columns = 70, 3 * group + 5
    for bits in (8, 4):
        packing = GpuPacking.whole(rows, columns, bits, group)
        integers, scales = random_weight(packing, group)
        stored, factors = pack_weight(integers, scales, packing)
        for n, k in ((0, 0), (69, columns - 1), (63, group), (64, 2 * group + 3), (5, group - 1)):
            chunk, row = divmod(n, CHUNK_ROWS)
            step, rest = divmod(k, group * packing.halves)
            half, column = divmod(rest, group)
            byte = int(stored[chunk, step, row, column].view(np.uint8))
            value = (byte >> 4 * half & 15) - 8 if bits == 4 else int(np.uint8(byte).view(np.int8))
            assert value == integers[n, k]
            assert factors[chunk, step, half, row] == scales[n, k // group]


def test_what_is_past_the_end_is_zero() -> None:
    packing = GpuPacking.whole(70, 40, 4, 32)
    stored, factors = pack_weight(*random_weight(packing, 0), packing)
    assert np.all(stored[1, :, 6:].view(np.uint8) == 0x88)
    assert np.all(stored[:, 0, :, 8:].view(np.uint8) >> 4 == 8)
    assert not factors[1, :, :, 6:].any()
    packing = GpuPacking.whole(70, 40, 8, 64)
    stored, _ = pack_weight(*random_weight(packing, 0), packing)
    assert not stored[:, :, :, 40:].any()


def test_four_bits_take_half_of_the_bytes() -> None:
    sizes = [np.prod(GpuPacking.whole(4096, 4096, bits, 128).shape) for bits in (8, 4)]
    assert sizes == [4096 * 4096, 4096 * 4096 // 2]


def test_what_is_refused() -> None:
    with pytest.raises(IRError, match="no GPU kernel"):
        GpuPacking.whole(64, 64, 3, 32)
    with pytest.raises(IRError, match="no GPU kernel"):
        GpuPacking.whole(64, 64, 4, 48)
    with pytest.raises(IRError, match="no elements"):
        GpuPacking.whole(64, 0, 4, 32)
    for parts in (((0, 32, 1),), ((0, 40, 1), (32, 64, 1)), ((0, 65, 1),), ((0, 64, 1), (0, 0, 1))):
        with pytest.raises(IRError, match="part"):
            GpuPacking(64, 64, 4, 32, parts)
    packing = GpuPacking.whole(64, 64, 4, 32)
    integers, scales = random_weight(packing, 0)
    with pytest.raises(IRError, match="does not fit"):
        pack_weight(integers[:63], scales, packing)
    with pytest.raises(IRError, match="does not fit"):
        pack_weight(integers, scales.astype(np.float32), packing)
    stored, factors = pack_weight(integers, scales, packing)
    for wrong, own in ((stored[0], packing), (factors, packing), (stored, packing.scales)):
        with pytest.raises(IRError, match="does not fit"):
            unpack_chunks(wrong, own)
    with pytest.raises(IRError, match="does not fit"):
        pack_chunks(integers, packing.scales)


@pytest.mark.parametrize(
    "change",
    [
        {"rows": "64"},
        {"rows": 0, "parts": []},
        {"rows": 1 << 41, "parts": [[0, 1 << 41, 1]]},
        {"columns": True},
        {"columns": -1},
        {"bits": 3},
        {"bits": None},
        {"group": 48},
        {"parts": [[0, 64]]},
        {"parts": [[0, 63, 1]]},
        {"parts": [[0, 64, 1], [0, 64, 1]]},
        {"parts": 7},
        {"scales": 1},
    ],
)
def test_damaged_json_is_refused(change: dict[str, object]) -> None:
    data = {**GpuPacking.whole(64, 64, 4, 32).to_json(), **change}
    with pytest.raises(ArtifactError, match="layout of a weight"):
        GpuPacking.from_json(data)


def test_numbers_that_nothing_has_room_for_are_only_read() -> None:
    rows = 1 << 40
    data = GpuPacking(rows, rows, 8, 64, ((0, rows, 2), (1, rows, 2))).to_json()
    assert GpuPacking.from_json(data).shape[0] == 2 * (rows // 2 // CHUNK_ROWS)

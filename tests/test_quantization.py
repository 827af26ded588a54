"""Quantized weights are stored without loss, in the places that the header file of kernels says."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.errors import IRError
from graphopt.ir.dtype import DType
from graphopt.packing import Layout, Quant, stored_bytes, stored_type
from graphopt.quantization import GROUPS, pack_quantized, quant_of, unpack_quantized

Parts = tuple[tuple[int, int, int], ...]


def rounded(layout: Layout, seed: int = 0) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float16]]:
    """Random integers over their whole range, and scales."""
    assert layout.quant is not None
    chance = np.random.default_rng(seed)
    limit = 1 << (layout.quant.bits - 1)
    batch = (layout.batch,) if layout.batch > 1 else ()
    groups = -(-layout.columns // layout.quant.group)
    integers = chance.integers(-limit, limit, (*batch, layout.rows, layout.columns), dtype=np.int8)
    scales = chance.standard_normal((*batch, layout.rows, groups)).astype(np.float16)
    return integers, scales


def stored_at(
    panel: npt.NDArray[np.uint8], quant: Quant, row: int, column: int
) -> tuple[int, float]:
    """The integer and the scale of one element, found byte by byte."""
    group, inside = divmod(column, quant.group)
    size = 16 * quant.group * quant.bits // 8
    pair = group // 2 * (64 + 2 * size)
    scale = panel[pair + group % 2 * 32 :][: 2 * 16].view(np.float16)[row]
    integers = panel[pair + 64 + group % 2 * size :]
    if quant.bits == 8:
        return int(integers[inside // 4 * 64 + row * 4 + inside % 4]) - 128, float(scale)
    byte = int(integers[inside // 8 * 64 + row * 4 + inside % 4])
    return (byte >> 4 if inside % 8 >= 4 else byte & 15) - 8, float(scale)


@settings(max_examples=80, deadline=None)
@given(
    rows=st.sampled_from([1, 2, 15, 16, 17, 50, 97]),
    columns=st.sampled_from([1, 3, 31, 32, 33, 64, 65, 96, 130, 300]),
    bits=st.sampled_from(sorted(GROUPS)),
    batch=st.sampled_from([1, 1, 3]),
    seed=st.integers(0, 9),
)
def test_what_is_unpacked_is_what_was_packed(
    rows: int, columns: int, bits: int, batch: int, seed: int
) -> None:
    layout = Layout.whole(rows, columns, batch=batch, quant=quant_of(bits))
    integers, scales = rounded(layout, seed)
    stored = pack_quantized(integers, scales, layout)
    assert stored_type(layout, DType.I8) == (DType.U8, stored.shape)
    assert stored_bytes(layout, DType.I8) == stored.nbytes
    assert stored.shape[2] % 64 == 0
    found, factors = unpack_quantized(stored, layout)
    np.testing.assert_array_equal(found, integers)
    np.testing.assert_array_equal(factors, scales)


@pytest.mark.parametrize("bits", sorted(GROUPS))
@pytest.mark.parametrize(
    "parts", [((0, 37, 1),), ((0, 37, 2), (1, 37, 2)), ((20, 37, 1), (0, 20, 1))]
)
def test_where_each_element_is(bits: int, parts: Parts) -> None:
    layout = Layout(37, 150, parts, quant=quant_of(bits))
    integers, scales = rounded(layout)
    (panels,) = pack_quantized(integers, scales, layout)
    quant = quant_of(bits)
    first = 0
    for part, count in zip(parts, layout.part_panels, strict=True):
        for place, row in enumerate(range(*part)):
            panel = panels[first + place // 16]
            for column in (0, 3, 4, 31, 32, 77, 149):
                wanted = integers[row, column], scales[row, column // quant.group]
                assert stored_at(panel, quant, place % 16, column) == wanted
        padding = len(range(*part)) % 16
        if padding:
            last = panels[first + count - 1]
            assert stored_at(last, quant, padding, 5) == (0, 0.0)
            assert stored_at(last, quant, 15, 149) == (0, 0.0)
        first += count


def test_columns_past_the_end_are_zeros() -> None:
    for bits in GROUPS:
        layout = Layout.whole(16, 33, quant=quant_of(bits))
        integers, scales = rounded(layout)
        panel = pack_quantized(integers, scales, layout)[0, 0]
        last = GROUPS[bits] * -(-33 // GROUPS[bits])
        for column in range(33, last):
            assert stored_at(panel, quant_of(bits), 3, column)[0] == 0


def test_many_panels_are_written_in_chunks() -> None:
    for bits in GROUPS:
        layout = Layout(3000, 257, ((0, 3000, 2), (1, 3000, 2)), quant=quant_of(bits))
        integers, scales = rounded(layout)
        found, factors = unpack_quantized(pack_quantized(integers, scales, layout), layout)
        np.testing.assert_array_equal(found, integers)
        np.testing.assert_array_equal(factors, scales)


def test_arrays_that_do_not_fit_are_refused() -> None:
    layout = Layout.whole(20, 64, quant=quant_of(8))
    integers, scales = rounded(layout)
    for wrong in (
        (integers[:, :63], scales, layout),
        (integers.astype(np.int16), scales, layout),
        (integers, scales.astype(np.float32), layout),
        (integers, scales[:19], layout),
        (integers, scales, replace(layout, quant=None)),
        (integers, scales, replace(layout, quant=Quant(8, 48))),
        (integers, scales, replace(layout, quant=Quant(2, 64))),
        (integers, scales, replace(layout, transposed=True)),
        (integers[None], scales, layout),
        (integers[None, None], scales[None, None], layout),
    ):
        with pytest.raises(IRError, match="does not fit its layout"):
            pack_quantized(*wrong)
    stored = pack_quantized(integers, scales, layout)
    one = pack_quantized(integers[None], scales[None], layout)  # a single expert's
    np.testing.assert_array_equal(one, stored)
    for odd in (stored[:, :1], stored.view(np.int8)):
        with pytest.raises(IRError, match="does not fit its layout"):
            unpack_quantized(odd, layout)

"""Panels hold what a loop over the definition puts there, and give the weight back."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.errors import ArtifactError, IRError
from graphopt.ir.dtype import DType
from graphopt.packing import Layout, Quant, pack, pair_of, stored_bytes, stored_type, unpack

NUMPY = {DType.F32: np.float32, DType.F16: np.float16, DType.BF16: np.uint16}


@st.composite
def layouts(draw: st.DrawFn) -> Layout:
    """Whole matrices, halves one after the other, interleaved halves, and uneven parts."""
    rows = draw(st.integers(1, 70))
    columns = draw(st.integers(1, 40))
    batch = draw(st.integers(1, 3))
    kind = draw(st.sampled_from(("whole", "split", "interleaved")))
    transposed = draw(st.booleans())
    if kind == "split" and rows > 1:
        cut = draw(st.integers(1, rows - 1))
        return Layout(rows, columns, ((0, cut, 1), (cut, rows, 1)), batch, None, transposed)
    if kind == "interleaved" and rows > 1:
        step = draw(st.integers(2, min(3, rows)))
        parts = tuple((i, rows, step) for i in range(step))
        return Layout(rows, columns, parts, batch, None, transposed)
    return Layout.whole(rows, columns, batch=batch, transposed=transposed)


def by_definition(array: np.ndarray, layout: Layout, pair: int) -> np.ndarray:
    _, shape = stored_type(layout, DType.F32 if pair == 1 else DType.F16)
    stored = np.zeros(shape, dtype=array.dtype)
    matrices = array.reshape(layout.batch, *array.shape[-2:])
    if layout.transposed:
        matrices = np.transpose(matrices, (0, 2, 1))
    first = 0
    for part in layout.parts:
        rows = range(*part)
        for place, row in enumerate(rows):
            panel, lane = first + place // 16, place % 16
            for k in range(layout.columns):
                stored[:, panel, k // pair, lane, k % pair] = matrices[:, row, k]
        first += -(-len(rows) // 16)
    return stored


@given(layouts(), st.sampled_from(tuple(NUMPY)), st.integers(0, 2**32 - 1))
def test_panels_are_what_the_definition_says(layout: Layout, dtype: DType, seed: int) -> None:
    generator = np.random.default_rng(seed)
    matrix = (layout.rows, layout.columns)
    shape = matrix[::-1] if layout.transposed else matrix
    if layout.batch > 1:
        shape = (layout.batch, *shape)
    array = generator.integers(1, 60000, shape).astype(NUMPY[dtype])
    stored = pack(array, layout)
    assert (DType.BF16 if stored.dtype == np.uint16 else dtype, stored.shape) == stored_type(
        layout, dtype
    )
    assert stored.nbytes == stored_bytes(layout, dtype)
    np.testing.assert_array_equal(stored, by_definition(array, layout, pair_of(dtype)))
    back = unpack(stored, layout)
    assert back.shape == array.shape
    assert back.dtype == array.dtype
    np.testing.assert_array_equal(back, array)


def test_every_bit_pattern_survives() -> None:
    bits = np.arange(2**16, dtype=np.uint16).reshape(256, 256)
    layout = Layout.whole(256, 256)
    assert np.array_equal(unpack(pack(bits, layout), layout), bits)
    halves = bits.view(np.float16)
    assert np.array_equal(unpack(pack(halves, layout), layout).view(np.uint16), bits)


def test_a_view_of_a_larger_array_packs_like_its_copy() -> None:
    array = np.arange(64 * 50, dtype=np.float32).reshape(64, 50)
    for view in (array[::2, 3:20], array.T[:33, 5:]):
        layout = Layout.whole(*view.shape)
        np.testing.assert_array_equal(pack(view, layout), pack(view.copy(), layout))


@given(layouts(), st.sampled_from((None, Quant(8, 32), Quant(4, 32))))
def test_json_gives_the_layout_back(layout: Layout, quant: Quant | None) -> None:
    layout = replace(layout, quant=quant)
    assert Layout.from_json(json.loads(json.dumps(layout.to_json()))) == layout


@pytest.mark.parametrize(
    "change",
    [
        {"rows": "7"},
        {"columns": True},
        {"batch": 0},
        {"parts": [[0, 3, 1]]},
        {"parts": [[0, 4]]},
        {"parts": 3},
        {"quant": {"bits": 4}},
        {"quant": 4},
        {"transposed": 1},
    ],
)
def test_damaged_json_is_refused(change: dict[str, object]) -> None:
    data = {**Layout.whole(4, 8).to_json(), **change}
    with pytest.raises(ArtifactError, match="layout"):
        Layout.from_json(data)


@pytest.mark.parametrize(
    "parts", [((0, 4, 1), (3, 6, 1)), ((0, 5, 1),), ((0, 7, 1),), ((0, 6, 0),)]
)
def test_parts_must_take_every_row_once(parts: tuple[tuple[int, int, int], ...]) -> None:
    with pytest.raises(IRError, match="part"):
        Layout(6, 8, parts)


def test_what_kernels_cannot_read_is_refused() -> None:
    with pytest.raises(IRError, match="not packed"):
        stored_type(Layout.whole(4, 4), DType.I64)
    with pytest.raises(IRError, match="as they are"):
        pack(np.zeros((4, 4)), Layout.whole(4, 4))
    with pytest.raises(IRError, match="as they are"):
        pack(np.zeros((4, 4), np.float32), Layout.whole(4, 4, quant=Quant(8, 32)))


@settings(max_examples=300, deadline=None)
@given(
    rows=st.integers(1, 12),
    parts=st.lists(
        st.tuples(st.integers(0, 11), st.integers(1, 12), st.integers(1, 5)), min_size=1, max_size=4
    ),
)
def test_parts_are_checked_as_if_rows_were_counted(
    rows: int, parts: list[tuple[int, int, int]]
) -> None:
    taken = sorted(row for part in parts for row in range(*part))
    fits = all(start < stop <= rows for start, stop, _ in parts) and taken == list(range(rows))
    if fits:
        assert Layout(rows, 1, tuple(parts)).part_rows
    else:
        with pytest.raises(IRError):
            Layout(rows, 1, tuple(parts))


def test_strided_parts_that_make_up_all_rows() -> None:
    for step in (1, 2, 3, 7):
        parts = tuple((start, 42, step) for start in range(step))
        assert sum(Layout(42, 1, parts).part_rows) == 42
        with pytest.raises(IRError):
            Layout(42, 1, (*parts[1:], (0, 41, step)) if step == 1 else (*parts[:-1], parts[0]))

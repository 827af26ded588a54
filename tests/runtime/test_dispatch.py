"""Every batch runs at sizes that hold it, and at the smallest captured ones."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from graphopt.runtime.capture_plan import NOTHING_CAPTURED, CapturePlan
from graphopt.runtime.dispatch import BatchShape, Choice, Mode, dispatch
from graphopt.runtime.executor import StepInputs

CAPTURED = CapturePlan((1, 2, 4, 8), (16, 32, 64), 20, (1, 1, 1, 1), (2, 2, 2))


def captured_plans() -> st.SearchStrategy[CapturePlan]:
    """Plans of any sizes."""
    sizes = st.sets(st.integers(1, 70), max_size=6).map(lambda found: tuple(sorted(found)))

    def plan(decodes, pieces, columns):
        return CapturePlan(decodes, pieces, columns, (1,) * len(decodes), (1,) * len(pieces))

    return st.builds(plan, sizes, sizes, st.integers(0, 30))


@st.composite
def shapes(draw: st.DrawFn) -> BatchShape:
    """Batches of up to eight sequences, decodes more often than by chance."""
    queries = draw(
        st.lists(st.just(1), min_size=1, max_size=80)
        | st.lists(st.integers(1, 12), min_size=1, max_size=8)
    )
    tokens = sum(queries)
    rows = draw(st.sampled_from((len(queries), 0, tokens)) | st.integers(0, tokens))
    return BatchShape(tokens, rows, len(queries), draw(st.integers(1, 30)), max(queries))


@given(shapes(), captured_plans())
def test_a_batch_takes_the_smallest_capture_that_holds_it(shape: BatchShape, plan: CapturePlan):
    choice = dispatch(shape, plan)
    assert choice == dispatch(shape, plan)
    assert all(choice.sizes[name] >= size for name, size in shape.sizes.items())
    one_each = shape.tokens == shape.rows == shape.sequences and shape.longest_query == 1
    wholes = [size for size in plan.decode_sizes if size >= shape.sequences]
    pieces = [size for size in plan.piece_sizes if size >= shape.tokens]
    if one_each and wholes and shape.blocks <= plan.columns_at(min(wholes)):
        least = min(wholes)
        sizes = {"T": least, "R": least, "S": least, "P": plan.columns_at(least)}
        assert choice == Choice(Mode.WHOLE, sizes)
    elif pieces:
        sizes = {"R": shape.rows, "S": shape.sequences, "P": shape.blocks}
        assert choice == Choice(Mode.PIECES, {"T": min(pieces), **sizes})
    else:
        assert choice == Choice(Mode.PLAIN, shape.sizes)


@given(shapes())
def test_without_captures_nothing_is_padded(shape: BatchShape):
    assert dispatch(shape, NOTHING_CAPTURED) == Choice(Mode.PLAIN, shape.sizes)


def test_the_shape_of_inputs():
    table = np.zeros((3, 7), dtype=np.int32)
    tokens, rows = np.zeros(19, dtype=np.int64), np.zeros(2, dtype=np.int64)
    starts, lengths = np.array([0, 1, 18, 19], dtype=np.int32), np.ones(3, dtype=np.int32)
    inputs = StepInputs(tokens, tokens, rows, tokens, starts, lengths, table)
    assert BatchShape.of(inputs) == BatchShape(19, 2, 3, 7, 17)


def test_examples():
    assert dispatch(BatchShape(3, 3, 3, 7, 1), CAPTURED) == Choice(
        Mode.WHOLE, {"T": 4, "R": 4, "S": 4, "P": 20}
    )
    mixed = BatchShape(19, 2, 3, 7, 17)
    assert dispatch(mixed, CAPTURED) == Choice(Mode.PIECES, {"T": 32, "R": 2, "S": 3, "P": 7})
    # Nine decodes are more than any whole step holds, and tables of 21 blocks are too wide.
    assert dispatch(BatchShape(9, 9, 9, 7, 1), CAPTURED).sizes["T"] == 16
    assert dispatch(BatchShape(3, 3, 3, 21, 1), CAPTURED).mode is Mode.PIECES
    assert dispatch(BatchShape(65, 1, 1, 7, 65), CAPTURED).mode is Mode.PLAIN
    # Tables of many sequences are narrower than those of few.
    wide = replace(CAPTURED, block_columns=8192, decode_sizes=(16, 256), decode_bytes=(1, 1))
    assert dispatch(BatchShape(16, 16, 16, 8192, 1), wide).mode is Mode.WHOLE
    assert dispatch(BatchShape(200, 200, 200, 512, 1), wide).sizes["P"] == 512
    assert dispatch(BatchShape(200, 200, 200, 513, 1), wide).mode is Mode.PLAIN
    # One token of a prompt that goes on wants no logits: not a decode.
    assert dispatch(BatchShape(1, 0, 1, 7, 1), CAPTURED).mode is Mode.PIECES

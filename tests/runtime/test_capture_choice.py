"""The sizes that are captured, by default and for a recorded workload, and what is said of them."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.embedding import Embedding
from graphopt.runtime.capture_choice import (
    choose_captures,
    decode_series,
    launches_of,
    listed,
    piece_series,
)
from graphopt.runtime.capture_cost import pieces_bytes, whole_bytes
from graphopt.runtime.dispatch import BatchShape, Mode, dispatch
from graphopt.runtime.scheduler import SchedulerLimits

from .gpu_plan import KERNELS, gpu_plan, with_library

PLAN = gpu_plan()
LIMITS = SchedulerLimits(32, 1024, 64, 64)


def decode(sequences: int) -> BatchShape:
    return BatchShape(sequences, sequences, sequences, 3, 1)


def mixed(tokens: int) -> BatchShape:
    return BatchShape(tokens, 1, 1, 3, tokens)


@given(st.integers(1, 2000))
def test_series_grow_slowly_and_end_where_they_should(most: int):
    for series in (decode_series(most), piece_series(most)):
        assert series[-1] == most
        assert all(left < right for left, right in pairwise(series))
    assert all(right - left <= 16 for left, right in pairwise(decode_series(most)))
    assert all(right - left <= max(16, left / 4) for left, right in pairwise(piece_series(most)))


def test_without_a_trace_the_usual_sizes():
    plan = choose_captures(PLAN, KERNELS, LIMITS)
    assert plan.decode_sizes == (1, 2, 4, 8, 16, 24, 32)
    assert plan.piece_sizes == piece_series(1024)
    assert plan.block_columns == 32
    assert plan.decode_bytes == tuple(
        whole_bytes(PLAN, KERNELS, plan.decode_sizes_at(size)) for size in plan.decode_sizes
    )
    assert plan.piece_bytes == tuple(pieces_bytes(PLAN, KERNELS, size) for size in plan.piece_sizes)
    whole, tables, pieces = plan.reasons
    assert "captured whole, for 1, 2, 4, 8, 16, 24 and 32 sequences" in whole
    assert tables.endswith("so width costs a copy and no more.")
    assert "32 columns" in tables
    assert "for 16, 32, 48, 64, 80, 96 … 1024 tokens" in pieces


def test_texts_that_embed_have_no_decodes():
    plan = replace(gpu_plan(), embedding=Embedding(8, "mean", True, True))
    limits = SchedulerLimits(8, 256, 256, 64)
    found = choose_captures(plan, KERNELS, limits, {decode(4): 100})
    assert found.decode_sizes == ()
    assert found.piece_sizes
    assert "no decodes" in found.reasons[0]
    assert dispatch(decode(4), found).mode is Mode.PIECES


def test_tables_of_many_sequences_are_narrower():
    limits = SchedulerLimits(256, 1024, 256, 1 << 17)  # blocks of 2 tokens
    wide = choose_captures(PLAN, KERNELS, limits)
    assert wide.block_columns == 1 << 16
    assert "from 4 sequences on they are narrower, down to 512 columns for 256" in wide.reasons[1]
    assert "(there 1024 tokens) run in pieces" in wide.reasons[1]


def test_pieces_of_long_steps_are_not_captured():
    plan = choose_captures(PLAN, KERNELS, SchedulerLimits(32, 16384, 64, 64))
    assert plan.piece_sizes[-1] == 4096
    assert plan.reasons[-1].startswith("Steps of more than 4096 tokens are launched plainly")
    assert dispatch(mixed(4097), plan).mode is Mode.PLAIN


def test_sizes_at_which_pytorch_runs_something_are_left_out():
    plan = choose_captures(PLAN, with_library("glu", up_to=8), LIMITS)
    assert plan.decode_sizes == (16, 24, 32)
    assert "Steps of 1, 2, 4 and 8 sequences are not captured whole, because PyTorch runs glu" in (
        " ".join(plan.reasons)
    )
    assert plan.piece_sizes == piece_series(1024)  # the first piece is always captured
    none = choose_captures(PLAN, with_library("glu", "embed_norm", up_to=5000), LIMITS)
    assert (none.decode_sizes, none.piece_sizes) == ((), ())
    assert none.reasons[-1] == "No piece is captured, because none is of compiled kernels alone."
    assert none.total_bytes == 0


def test_sizes_fit_a_trace():
    trace = {decode(5): 80, decode(17): 20, mixed(70): 10, mixed(1000): 5, decode(40): 3}
    plan = choose_captures(PLAN, KERNELS, LIMITS, trace)
    assert plan.decode_sizes == (5, 17, 32)
    # Forty decodes are more than may run at once; their tokens count as any others.
    assert plan.piece_sizes == (40, 70, 1000, 1024)
    said = " ".join(plan.reasons)
    assert "fitted to 100 recorded batches, whose sequences padding makes 0.0% more" in said
    usual = (80 * 3 + 20 * 7) / (80 * 5 + 20 * 17)
    assert f"with the usual sizes it would be {usual:.1%}" in said
    assert "fitted to 18 recorded batches, whose tokens" in said


def test_a_trace_of_decodes_alone_leaves_pieces_as_they_are():
    plan = choose_captures(PLAN, KERNELS, LIMITS, {decode(3): 7})
    assert plan.decode_sizes == (3, 32)
    assert plan.piece_sizes == piece_series(1024)


def test_decodes_that_cannot_be_captured_whole_count_for_pieces():
    library = with_library("head", up_to=5000)
    plan = choose_captures(PLAN, library, LIMITS, {decode(3): 7, mixed(9000): 2})
    assert plan.decode_sizes == ()
    assert plan.piece_sizes == (3, 1024)
    assert plan.reasons[-1] == "2 recorded batches are larger than that, and do not count."


@settings(max_examples=100, deadline=None)
@given(
    st.dictionaries(st.integers(1, 32), st.integers(1, 99), max_size=9),
    st.dictionaries(st.integers(2, 1024), st.integers(1, 99), max_size=9),
)
def test_every_recorded_batch_finds_a_capture_and_pads_no_more_than_usual(decodes, chunks):
    trace = {
        **{decode(size): count for size, count in decodes.items()},
        **{mixed(size): count for size, count in chunks.items()},
    }
    usual = choose_captures(PLAN, KERNELS, LIMITS)
    fitted = choose_captures(PLAN, KERNELS, LIMITS, trace)
    for mode in (Mode.WHOLE, Mode.PIECES):
        tokens = [0, 0]
        for shape, count in trace.items():
            for place, plan in enumerate((fitted, usual)):
                choice = dispatch(shape, plan)
                assert choice.mode is (Mode.WHOLE if shape.is_decode else Mode.PIECES)
                if choice.mode is mode:
                    tokens[place] += count * choice.sizes["T"]
        assert tokens[0] <= tokens[1]
    assert len(fitted.decode_sizes) <= len(usual.decode_sizes)
    assert len(fitted.piece_sizes) <= len(usual.piece_sizes)


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ((3,), "3"),
        ((3, 4), "3 and 4"),
        ((3, 4, 5), "3, 4 and 5"),
        (tuple(range(8)), "0, 1, 2, 3, 4, 5, 6 and 7"),
        (tuple(range(9)), "0, 1, 2, 3, 4, 5 … 8"),
    ],
)
def test_sizes_as_words(sizes, words):
    assert listed(sizes) == words


def test_launches_of_an_artifact():
    class Some:
        launch_archs = dict.fromkeys(KERNELS, "sm_90")
        launch = staticmethod(KERNELS.__getitem__)

    assert launches_of(Some()) == KERNELS

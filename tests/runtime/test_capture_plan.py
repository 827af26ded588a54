"""A capture plan is written and read again, and keeps its bytes with its sizes."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphopt.errors import ArtifactError
from graphopt.runtime.capture_plan import NOTHING_CAPTURED, CapturePlan

PLAN = CapturePlan((1, 2, 4), (16, 32), 20, (10, 20, 40), (160, 320), ("First.",))


@st.composite
def capture_plans(draw: st.DrawFn) -> CapturePlan:
    sizes = st.sets(st.integers(1, 9999), max_size=9).map(lambda found: tuple(sorted(found)))
    decodes, pieces = draw(sizes), draw(sizes)
    count = len(decodes) + len(pieces)
    nbytes = draw(st.lists(st.integers(0, 2**40), min_size=count, max_size=count))
    return CapturePlan(
        decodes,
        pieces,
        draw(st.integers(0, 9999)),
        tuple(nbytes[: len(decodes)]),
        tuple(nbytes[len(decodes) :]),
        tuple(draw(st.lists(st.text()))),
    )


@given(capture_plans())
def test_it_reads_what_it_writes(plan: CapturePlan):
    assert CapturePlan.from_json(plan.to_json()) == plan


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"schema": 0}, "schema"),
        ({"decode": None}, "not readable"),
        ({"decode": [{"sequences": 2}]}, "not readable"),
        ({"decode": [{"sequences": 0, "bytes": 1}]}, "not readable"),
        ({"pieces": [{"tokens": 2, "bytes": 1}, {"tokens": 2, "bytes": 1}]}, "not readable"),
        ({"pieces": [{"tokens": 2, "bytes": True}]}, "not readable"),
        ({"pieces": [3]}, "not readable"),
        ({"block_columns": -1}, "not readable"),
        ({"block_columns": 1 << 63}, "not readable"),
        ({"reasons": [1]}, "not readable"),
    ],
)
def test_nothing_else_is_read(change: dict[str, object], why: str):
    with pytest.raises(ArtifactError, match=why):
        CapturePlan.from_json({**PLAN.to_json(), **change})
    with pytest.raises(ArtifactError, match="not readable"):
        CapturePlan.from_json({"schema": 1})
    with pytest.raises(ArtifactError, match="schema"):
        CapturePlan.from_json([1])


def test_the_sizes_of_a_whole_step():
    assert PLAN.decode_sizes_at(4) == {"T": 4, "R": 4, "S": 4, "P": 20}
    wide = replace(PLAN, block_columns=8192)
    assert [wide.columns_at(size) for size in (1, 16, 17, 256, 1 << 18)] == (
        [8192, 8192, (1 << 17) // 17, 512, 1]
    )  # fmt: skip


def test_keeping_some_sizes_keeps_their_bytes_and_says_why():
    less = PLAN.keeping([1, 2], [16, 99], "Memory ran out.")
    assert less == CapturePlan((1, 2), (16,), 20, (10, 20), (160,), ("First.", "Memory ran out."))
    assert PLAN.total_bytes == 550
    assert less.total_bytes == 190
    assert NOTHING_CAPTURED.total_bytes == 0


def test_what_was_measured_stands_in_for_the_estimate():
    assert PLAN.measured({}, {}) == PLAN
    less = PLAN.measured({1: 5, 2: 6, 4: 7}, {16: 8, 32: 9})
    assert less == replace(PLAN, decode_bytes=(5, 6, 7), piece_bytes=(8, 9))
    as_good_as = PLAN.measured({1: 10 + 137}, {})
    assert as_good_as.reasons == PLAN.reasons
    more = PLAN.measured({1: 10 + 138}, {})
    assert more.decode_bytes == (148, 20, 40)
    assert more.reasons[-1].startswith("The graphs took 688 bytes where 550 were expected")

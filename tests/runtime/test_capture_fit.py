"""The fitted sizes pad as little as the best of all choices."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.errors import UsageError
from graphopt.runtime.capture_fit import fit_sizes, padding

MOST = 14


@st.composite
def workloads(draw: st.DrawFn) -> tuple[dict[int, int], int, int]:
    most = draw(st.integers(1, MOST))
    seen = draw(st.dictionaries(st.integers(1, most), st.integers(0, 9), max_size=MOST))
    return seen, most, draw(st.integers(1, 6))


@settings(max_examples=400, deadline=None)
@given(workloads())
def test_no_other_choice_pads_less_and_none_as_little_with_fewer(case):
    seen, most, number = case
    sizes = fit_sizes(seen, most, number)
    assert sizes[-1] == most
    assert list(sizes) == sorted(set(sizes))
    assert len(sizes) <= number
    # All sizes are tried, not only those that came.
    least = {
        count: min(
            padding(seen, (*chosen, most)) for chosen in combinations(range(1, most), count - 1)
        )
        for count in range(1, min(number, most) + 1)
    }
    assert padding(seen, sizes) == min(least.values())
    assert all(found > min(least.values()) for count, found in least.items() if count < len(sizes))


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(st.integers(1, 4096), st.integers(1, 10**6), min_size=40, max_size=80),
    st.integers(1, 12),
)
def test_the_quick_way_is_the_slow_way(seen, number):
    """Against the textbook recurrence, at sizes that brute force does not reach."""
    values = sorted({*seen, 4096})
    table = [0] + [None] * len(values)
    best = None
    for _ in range(number):
        after = [None]
        for j in range(1, len(values) + 1):
            options = [
                table[i]
                + sum(seen.get(v, 0) * (values[j - 1] - v) for v in values[i:j])
                for i in range(j)
                if table[i] is not None
            ]  # fmt: skip
            after.append(min(options, default=None))
        table = after
        best = table[-1] if best is None else min(best, table[-1])
    assert padding(seen, fit_sizes(seen, 4096, number)) == best


def test_a_workload_of_few_sizes_needs_few():
    assert fit_sizes({}, 8, 5) == (8,)
    assert fit_sizes({8: 3}, 8, 5) == (8,)
    assert fit_sizes({1: 90, 3: 9, 7: 1}, 8, 2) == (1, 8)
    assert fit_sizes({1: 90, 3: 9, 7: 1}, 8, 9) == (1, 3, 7, 8)
    assert padding({1: 90, 3: 9, 7: 1}, (1, 8)) == 9 * 5 + 1


def test_thousands_of_sizes_take_no_time():
    seen = {size: 1 + size * 7919 % 100 for size in range(1, 4097)}
    sizes = fit_sizes(seen, 4096, 64)
    assert len(sizes) == 64
    assert padding(seen, sizes) < padding(seen, range(64, 4097, 64))


@pytest.mark.parametrize(
    ("seen", "most", "number"), [({9: 1}, 8, 2), ({0: 1}, 8, 2), ({1: 1}, 8, 0), ({}, 0, 1)]
)
def test_what_makes_no_sense_is_refused(seen, most, number):
    with pytest.raises(UsageError, match="cannot be fitted"):
        fit_sizes(seen, most, number)

"""What a plan can reach is what some step's sizes fit first."""

from __future__ import annotations

from itertools import product

from hypothesis import given
from hypothesis import strategies as st

from graphopt.codegen.triton.buckets import Bucket, buckets_of, corners, first_fit, reachable
from graphopt.codegen.triton.kernel import Variant


def variant(function: str, **below: int) -> Variant:
    return Variant(function, below=below)


def test_equal_bounds_in_a_row_are_alternatives() -> None:
    few, other, many = variant("few", T=16), variant("other", T=16), variant("many")
    buckets = buckets_of([few, other, many])
    assert buckets == (Bucket({"T": 16}, (few, other)), Bucket({}, (many,)))
    assert [one.name for one in buckets] == ["T<=16", "any"]


def test_what_no_step_runs_first_is_not_reached() -> None:
    buckets = buckets_of(
        [variant("a", T=16), variant("b", T=8), variant("c", T=64, P=4), variant("d")]
    )
    assert [one.candidates[0].function for one in reachable(buckets, {})] == ["a", "c", "d"]
    # With few blocks and few tokens at most, the last is for nobody.
    found = reachable(buckets, {"T": 60, "P": 4})
    assert [one.candidates[0].function for one in found] == ["a", "c"]
    assert [one.candidates[0].function for one in reachable(buckets, {"T": 1})] == ["a"]


bounds = st.dictionaries(st.sampled_from(["T", "S", "P"]), st.integers(1, 9), max_size=3)


@given(st.lists(bounds, max_size=5), st.dictionaries(st.sampled_from("TSP"), st.integers(1, 9)))
def test_reached_is_what_any_sizes_find(below: list[dict[str, int]], most: dict[str, int]) -> None:
    buckets = buckets_of([Variant("f", below=one) for one in [*below, {}]])
    spans = [range(1, most.get(name, 11) + 1) for name in "TSP"]
    found = {first_fit(buckets, dict(zip("TSP", sizes, strict=True))) for sizes in product(*spans)}
    expected = tuple(one for place, one in enumerate(buckets) if place in found)
    assert reachable(buckets, most) == expected


def test_corners_stay_within_what_is_possible() -> None:
    buckets = buckets_of([variant("a", T=16, P=4), variant("b")])
    found = list(corners(buckets, {"P": 2}))
    assert {sizes["P"] for sizes in found} == {2}
    assert {sizes["T"] for sizes in found} == {16, 17}

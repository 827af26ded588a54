"""Kernels of regions: all or none of those with state, and defects that cost a kernel."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import pytest

from graphopt.codegen.made import STRICT, Made, attempt, has_state
from graphopt.errors import CompileError
from graphopt.ledger import Verdict, refuse
from graphopt.region import Region
from tests.passes.models import lowered


@dataclass(frozen=True)
class Kernel:
    name: str
    text: str = ""


@cache
def regions() -> tuple[list[Region], list[Region]]:
    """Those with state, and the others."""
    found = lowered("llama").regions
    return [one for one in found if has_state(one)], [one for one in found if not has_state(one)]


def made(**kernels: Kernel | Verdict) -> Made[Kernel]:
    """A kernel for each region: by its family, or one of its own name."""
    states, others = regions()
    return Made({one: kernels.get(one.family, Kernel(one.name)) for one in (*states, *others)})


def test_state_is_read_and_written_by_attention_and_what_comes_before_it() -> None:
    states, others = regions()
    assert {one.family for one in states} == {"attention", "heads"}
    assert {"linear", "gather"} <= {one.family for one in others}


def test_all_regions_with_state_have_kernels_or_none_has() -> None:
    states, others = regions()
    assert all(made().claims(one).accepted for one in (*states, *others))
    found = made(attention=refuse("not today"))
    assert all(found.claims(one).accepted for one in others)
    for one in states:
        verdict = found.claims(one)
        assert not verdict.accepted
        assert verdict.reason.endswith("not today")
    heads = next(one for one in states if one.family == "heads")
    assert found.claims(heads).reason.startswith("attention of model.layers.0.self_attn has no")
    # What one of the others lacks costs nobody else anything.
    found = made(linear=refuse("not today"))
    assert [one.family for one in others if not found.claims(one).accepted].count("linear") > 1
    assert all(found.claims(one).accepted for one in states)


def test_a_kernel_or_the_reason() -> None:
    _, others = regions()
    found = made(linear=refuse("not today"), gather=Kernel("embed"))
    for one in others:
        if one.family == "linear":
            with pytest.raises(CompileError, match="has no kernel") as caught:
                found.kernel(one)
            assert (caught.value.where, caught.value.got) == (one.scope, "not today")
        elif one.family == "gather":
            assert found.kernel(one).name == "embed"


def test_equal_kernels_are_the_first() -> None:
    states, _ = regions()
    attentions = [one for one in states if one.family == "attention"]
    found = Made({one: Kernel("a", str(n)) for n, one in enumerate(attentions)})
    assert len(attentions) > 1
    assert found.kernels() == {"a": Kernel("a", "0")}


def test_kernels_that_turn_out_to_be_of_no_use_are_none() -> None:
    states, others = regions()
    whole = made(attention=Kernel("attention"), linear=Kernel("product"))
    found = whole.without({"attention": refuse("too large"), "other": refuse("never")})
    assert not any(found.claims(one).accepted for one in states)
    assert all(found.claims(one).accepted for one in others)
    assert "attention" not in found.kernels()
    assert all(whole.claims(one).accepted for one in states)  # which is as it was


def test_a_defect_is_a_reason_and_fails_our_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    def defect() -> Kernel | Verdict:
        raise IndexError("list index out of range")

    with pytest.raises(IndexError):
        attempt(defect)
    monkeypatch.delenv(STRICT)
    found = attempt(defect)
    assert isinstance(found, Verdict)
    assert found.reason == "the code generator failed: IndexError: list index out of range"
    assert attempt(lambda: Kernel("a")) == Kernel("a")

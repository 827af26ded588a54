from __future__ import annotations

import pytest

from graphopt.ir.dtype import DType
from graphopt.ir.graph import Attr
from graphopt.ir.ops import canonical_attrs
from graphopt.ir.shape import sym

from .wrong import inferred, refused, types_of

T, S = sym("T"), sym("S")


def test_inference() -> None:
    assert inferred("reshape", "f32[T, 64]", shape=(T, 4, 16)) == "f32[T, 4, 16]"
    assert inferred("reshape", "f32[T, 64]", shape=(-1, 16)) == "f32[4*T, 16]"
    assert inferred("permute", "f32[T, 2, 3]", dims=(2, 0, -2)) == "f32[3, T, 2]"
    assert inferred("expand", "f32[T, 1]", shape=(5, -1, 3)) == "f32[5, T, 3]"
    assert inferred("slice", "f32[T, 8]", dim=1, start=1, end=8, step=3) == "f32[T, 3]"
    assert inferred("slice", "f32[T + 1]", dim=0, start=1, end=T + 1) == "f32[T]"
    assert inferred("select", "f32[T, 8]", dim=-1, index=-1) == "f32[T]"
    assert inferred("concat", "f32[T, 2]; f32[T, 3]", dim=1) == "f32[T, 5]"
    assert inferred("concat", "f32[T]; f32[S]; f32[1]", dim=0) == "f32[S + T + 1]"
    assert inferred("split", "f32[T + 2]", sizes=(T, 2), dim=0) == "f32[T]; f32[2]"
    assert inferred("pad_constant", "f32[T, 2]", pads=(1, 2, T, 0)) == "f32[2*T, 5]"
    assert inferred("pad_constant", "f32[T, 2]", pads=(-1, 0)) == "f32[T, 1]"
    assert inferred("repeat_interleave", "f32[T, 2]", repeats=3, dim=0) == "f32[3*T, 2]"
    assert inferred("full", "", shape=(T, 2), dtype=DType.BF16, value=1) == "bf16[T, 2]"
    assert inferred("iota", "", end=T) == "i64[T]"
    assert inferred("iota", "", start=T, end=0, step=-1) == "i64[T]"
    assert inferred("iota", "", start=0.0, end=1.0, step=0.3, dtype=DType.F32) == "f32[4]"


@pytest.mark.parametrize(
    ("types", "attrs", "start", "end"),
    [
        ("f32[8]", {}, 0, 8),
        ("f32[8]", {"start": -3, "end": -1}, 5, 7),
        ("f32[8]", {"start": 2, "end": 100}, 2, 8),
        ("f32[8]", {"start": 5, "end": 2}, 5, 5),
        ("f32[8]", {"start": -100, "end": (1 << 63) - 1}, 0, 8),
        ("f32[T]", {"start": 1, "end": (1 << 63) - 1}, 1, T),
        ("f32[T]", {"start": 0, "end": -1}, 0, T - 1),
        ("f32[T]", {"start": -1, "end": None}, T - 1, T),
    ],
)
def test_slices_count_from_the_front(
    types: str, attrs: dict[str, Attr], start: Attr, end: Attr
) -> None:
    done = canonical_attrs("slice", types_of(types), {"dim": 0, **attrs})
    assert (done["start"], done["end"]) == (start, end)


def test_what_is_refused() -> None:
    refused("reshape", "f32[T, 4]", "equally many", shape=(T, 5))
    refused("reshape", "f32[T, 4]", "equally many", shape=(S, 4))
    refused("reshape", "f32[T, 4]", "cannot be told", shape=(-1, -1))
    refused("reshape", "f32[0, 4]", "cannot be told", shape=(-1, 0))
    refused("reshape", "f32[4]", "negative", shape=(-2, -2))
    refused("permute", "f32[T, 4]", "not every dimension", dims=(0,))
    refused("permute", "f32[T, 4]", "twice", dims=(0, 0))
    refused("expand", "f32[T, 4]", "does not expand", shape=(4,))
    refused("expand", "f32[T, 4]", "does not broadcast|do not broadcast", shape=(T, 5))
    refused("expand", "f32[T, 4]", "does not expand", shape=(T, 1))
    refused("slice", "f32[T]", "step is not positive", dim=0, step=0)
    refused("slice", "f32[T]", "not inside", dim=0, start=0, end=T + 1)
    refused("slice", "f32[T]", "not inside", dim=0, start=T + 1, end=0)
    refused("select", "f32[3]", "not inside", dim=0, index=3)
    refused("select", "f32[T]", "not inside", dim=0, index=T)
    refused("concat", "f32[T, 2]; f32[S, 2]", "more than dimension 1", dim=1)
    refused("concat", "f32[T, 2]; bf16[T, 2]", "more than dimension 1", dim=1)
    refused("concat", "f32[T, 2]; f32[T]", "more than dimension 1", dim=1)
    refused("split", "f32[5]", "do not add up", sizes=(2, 2), dim=0)
    refused("split", "f32[5]", "negative", sizes=(6, -1), dim=0)
    refused("split", "f32[0]", "no parts", sizes=(), dim=0)
    refused("pad_constant", "f32[T]", "not pairs", pads=(1,))
    refused("pad_constant", "f32[T]", "not pairs", pads=(1, 1, 1, 1))
    refused("pad_constant", "f32[1]", "negative", pads=(-1, -1))
    refused("pad_constant", "i64[1]", "element type", pads=(1, 1), value=0.5)
    refused("roll", "f32[T]", "not as many shifts", shifts=(1, 2), dims=(0,))
    refused("repeat_interleave", "f32[T]", "negative", repeats=-1, dim=0)
    refused("full", "", "element type", shape=(2,), dtype=DType.BOOL, value=T)
    refused("full", "", "negative", shape=(-2,), dtype=DType.F32, value=0)
    refused("iota", "", "do not make a range", end=3, step=0)
    refused("iota", "", "ends before it starts", end=-3)
    refused("iota", "", "mixes fractions and sizes", end=T, step=0.5)
    refused("iota", "", "step of a range is not a number", end=3, step=T)
    refused("tril", "f32[T]", "two dimensions")

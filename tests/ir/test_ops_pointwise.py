from __future__ import annotations

from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.errors import VerifyError
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Attr
from graphopt.ir.ops import canonical_attrs
from graphopt.ir.ops_pointwise import broadcast
from graphopt.ir.shape import evaluate, sym

from .sample_types import narrower, shape_of
from .wrong import inferred, refused, types_of

T, S = sym("T"), sym("S")


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_broadcast_is_pytorchs(seed: int) -> None:
    rng = Random(seed)
    whole = shape_of(rng)
    left, right = narrower(rng, whole), narrower(rng, whole)
    env = {"T": 5, "R": 3}
    shapes = [[evaluate(dim, env) for dim in shape] for shape in (left, right)]
    result = [evaluate(dim, env) for dim in broadcast(left, right)]
    assert result == list(torch.broadcast_shapes(*shapes))
    assert broadcast(left, right) == broadcast(right, left)


@pytest.mark.parametrize(
    ("left", "right"), [((T,), (S,)), ((T,), (4,)), ((2, 3), (3, 2)), ((T + 1,), (T,))]
)
def test_sizes_that_do_not_broadcast_are_both_named(
    left: tuple[int, ...], right: tuple[int, ...]
) -> None:
    with pytest.raises(VerifyError) as caught:
        broadcast(left, right)
    assert caught.value.got == f"[{', '.join(map(str, left))}] and [{', '.join(map(str, right))}]"


def test_inference() -> None:
    assert inferred("add", "bf16[T, 1, 4]; bf16[3, 1]") == "bf16[T, 3, 4]"
    assert inferred("lt", "i64[T]; i64[]") == "bool[T]"
    assert inferred("logical_not", "f32[T]") == "bool[T]"
    assert inferred("where", "bool[T, 1]; f32[4]; f32[]") == "f32[T, 4]"
    assert inferred("glu", "bf16[T, 4]; bf16[T, 4]", activation="relu2") == "bf16[T, 4]"
    assert inferred("softcap", "f32[R, 9]", cap=30) == "f32[R, 9]"
    assert inferred("cast", "f32[T]", dtype=DType.F8E4M3) == "f8e4m3[T]"


def test_what_is_refused() -> None:
    refused("add", "f32[T]; bf16[T]", "different element types, f32 and bf16")
    refused("exp", "i64[T]", "not computed with")
    refused("add", "f8e4m3[T]; f8e4m3[T]", "not computed with")
    refused("sub", "bool[T]; bool[T]", "not computed with")
    refused("bitwise_and", "f32[T]; f32[T]", "not computed with")
    refused("add", "f32[T]", "needs attribute 'scalar'")
    refused("add", "f32[T]; f32[T]", "exclude each other", scalar=1.0)
    refused("add", "i64[T]", "does not have the element type", scalar=0.5)
    refused("add", "bool[T]", "does not have the element type", scalar=3)
    refused("where", "i64[T]; f32[T]; f32[T]", "not bool")
    refused("where", "bool[T]; f32[T]; f64[T]", "different element types")
    refused("clamp", "i64[T]", "bound 'min'", min=0.5)
    refused("glu", "f32[T, 4]; f32[T, 1]", "wrong shape")
    refused("glu", "f32[T, 4]; bf16[T, 4]", "another element type")
    refused("glu", "f32[T]; f32[T]", "no such choice", activation="mish")
    refused("softcap", "i64[T]", "not computed with", cap=2.0)
    for cap in (0.0, -1.0, float("inf"), float("nan")):
        refused("softcap", "f32[T]", "not positive and finite", cap=cap)
    refused("gelu", "f32[T]", "no such choice", approximate="exact")


@pytest.mark.parametrize(
    ("op", "types", "attrs", "canonical"),
    [
        ("add", "f32[T]", {"scalar": 2}, {"scalar": 2.0, "reverse": False}),
        ("add", "i64[T]", {"scalar": 2.0}, {"scalar": 2, "reverse": False}),
        ("add", "i64[T]", {"scalar": True}, {"scalar": 1, "reverse": False}),
        ("eq", "bool[T]", {"scalar": 1}, {"scalar": True, "reverse": False}),
        ("sub", "f32[T]", {"scalar": T, "reverse": True}, {"scalar": T, "reverse": True}),
        ("clamp", "f32[T]", {"max": 7}, {"min": None, "max": 7.0}),
        ("clamp", "i64[T]", {"min": 0}, {"min": 0, "max": None}),
        ("softplus", "f32[T]", {"beta": 2}, {"beta": 2.0, "threshold": 20.0}),
    ],
)
def test_canonical_numbers(
    op: str, types: str, attrs: dict[str, Attr], canonical: dict[str, Attr]
) -> None:
    done = canonical_attrs(op, types_of(types), attrs)
    assert list(done.items()) == list(canonical.items())
    assert list(map(type, done.values())) == list(map(type, canonical.values()))


@pytest.mark.parametrize("scalar", [float("inf"), float("nan")])
def test_numbers_that_no_integer_is(scalar: float) -> None:
    refused("add", "i64[T]", "does not have the element type", scalar=scalar)

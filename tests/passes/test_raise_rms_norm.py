"""Norms in all their spellings become one operator, and what only looks like one does not."""

from __future__ import annotations

from itertools import product

import pytest

from graphopt.ir.builder import GraphBuilder
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph, Value
from graphopt.ir.shape import sym
from graphopt.ir.types import TensorType
from graphopt.passes.raise_rms_norm import raise_rms_norm

from .numbers import applied, operators, reasons, rewritten, worst

T = sym("T")
BF16, F32 = DType.BF16, DType.F32
ROOTS = ("rsqrt", "pow", "reciprocal", "one over", "over sqrt", "over pow")


def over_root(b: GraphBuilder, x: Value, moment: Value, root: str = "rsqrt") -> Value:
    if root == "rsqrt":
        return b.one("mul", [x, b.one("rsqrt", [moment])])
    if root == "pow":
        return b.one("mul", [b.one("pow", [moment], {"scalar": -0.5}), x])
    if root == "over pow":
        return b.one("div", [x, b.one("pow", [moment], {"scalar": 0.5})])
    deviation = b.one("sqrt", [moment])
    if root == "over sqrt":
        return b.one("div", [x, deviation])
    if root == "reciprocal":
        return b.one("mul", [x, b.one("reciprocal", [deviation])])
    return b.one("mul", [x, b.one("div", [deviation], {"scalar": 1.0, "reverse": True})])


def moment_of(b: GraphBuilder, x: Value, *, square: str = "pow", eps: float | None = 1e-5) -> Value:
    squared = b.one("mul", [x, x]) if "mul" in square else b.one("pow", [x], {"scalar": 2.0})
    shape = x.type.shape  # type: ignore[union-attr]
    dims = {"dims": [len(shape) - 1], "keepdim": True}
    if square == "mul, sum":
        mean = b.one("div", [b.one("sum", [squared], dims)], {"scalar": shape[-1]})
    else:
        mean = b.one("mean", [squared], dims)
    return mean if eps is None else b.one("add", [mean], {"scalar": eps})


def norm(
    form: str,
    dtype: DType = BF16,
    *,
    square: str = "pow",
    root: str = "rsqrt",
    eps: float | None = 1e-5,
    swapped: bool = False,
    shape: tuple[object, ...] = (T, 7),
) -> Graph:
    """A norm as models spell it; ``form`` says when the weight is applied."""
    b = GraphBuilder("g")
    x = b.input("x", TensorType(dtype, shape))  # type: ignore[arg-type]
    casts = dtype is not F32 and form != "narrow"

    def cast(value: Value, to: DType) -> Value:
        return b.one("cast", [value], {"dtype": to}) if casts else value

    def mul(left: Value, right: Value) -> Value:
        return b.one("mul", [right, left] if swapped else [left, right])

    wide = cast(x, F32)
    normed = over_root(b, wide, moment_of(b, wide, square=square, eps=eps), root)
    if form == "bare":
        return b.finish([cast(normed, dtype)])
    weight = b.weight("w", TensorType(dtype, shape[-1:]))  # type: ignore[arg-type]
    if form == "before":
        return b.finish([mul(weight, cast(normed, dtype))])
    weight = cast(weight, F32)
    if form == "offset":
        weight = b.one("add", [weight], {"scalar": 1.0})
    return b.finish([cast(mul(normed, weight), dtype)])


FORMS = {
    "before": {"cast": "before", "offset": 0.0},
    "after": {"cast": "after", "offset": 0.0},
    "offset": {"cast": "after", "offset": 1.0},
    "bare": {"cast": "after", "offset": 0.0},
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("square", "root"), list(product(("pow", "mul", "mul, sum"), ROOTS)))
def test_every_spelling_is_one_norm(form: str, square: str, root: str) -> None:
    for swapped, shape in ((False, (T, 7)), (True, (3, T, 1)), (True, (2, T, 31))):
        graph = norm(form, square=square, root=root, swapped=swapped, shape=shape)
        result, entries = rewritten(graph, raise_rms_norm())
        (node,) = result.nodes
        assert node.op == "rms_norm"
        assert dict(node.attrs) == {"eps": 1e-5, **FORMS[form]}
        assert [value.name for value in node.inputs] == (["x"] if form == "bare" else ["x", "w"])
        assert len(applied(entries)) == 1
        assert worst(graph, result) <= (0.0 if root == "rsqrt" and square != "mul, sum" else 2**-7)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("root", ROOTS)
def test_models_in_float32_have_no_casts(form: str, root: str) -> None:
    graph = norm(form, F32, root=root)
    result, entries = rewritten(graph, raise_rms_norm())
    assert operators(result) == ["rms_norm"]
    assert result.nodes[0].attrs["offset"] == FORMS[form]["offset"]
    assert worst(graph, result) <= 1e-6
    assert not reasons(entries)


def test_a_norm_in_bf16_throughout_becomes_more_precise() -> None:
    graph = norm("narrow")
    result, _ = rewritten(graph, raise_rms_norm())
    assert operators(result) == ["rms_norm"]
    assert worst(graph, result) <= 2**-6


def test_no_epsilon_is_an_epsilon_of_zero() -> None:
    graph = norm("before", eps=None)
    result, _ = rewritten(graph, raise_rms_norm())
    assert result.nodes[0].attrs["eps"] == 0.0
    assert worst(graph, result) == 0.0


def test_a_small_input_shows_that_epsilon_is_kept() -> None:
    graph = norm("after", eps=1e-3)
    result, _ = rewritten(graph, raise_rms_norm())
    assert worst(graph, result, scale=1e-3) == 0.0


def test_a_weight_that_is_no_row_stays_outside() -> None:
    for shape in ((T, 7), (1, 7), (1,)):
        b = GraphBuilder("g")
        x = b.input("x", TensorType(F32, (T, 7)))
        w = b.input("w", TensorType(F32, shape))
        graph = b.finish([b.one("mul", [over_root(b, x, moment_of(b, x)), w])])
        result, entries = rewritten(graph, raise_rms_norm())
        assert operators(result) == ["rms_norm", "mul"]
        assert "not a row of" in reasons(entries)
        assert worst(graph, result) <= 1e-6


def test_a_norm_that_is_used_twice_is_computed_once() -> None:
    b = GraphBuilder("g")
    x = b.input("x", TensorType(F32, (T, 7)))
    normed = over_root(b, x, moment_of(b, x))
    products = [b.one("mul", [normed, b.weight(n, TensorType(F32, (7,)))]) for n in "vw"]
    graph = b.finish(products)
    result, entries = rewritten(graph, raise_rms_norm())
    assert operators(result) == ["rms_norm", "mul", "mul"]
    assert "read elsewhere too" in reasons(entries)
    assert worst(graph, result) <= 1e-6


def test_a_result_that_stays_wide_is_a_norm_of_the_wide_value() -> None:
    b = GraphBuilder("g")
    x = b.input("x", TensorType(BF16, (T, 7)))
    wide = b.one("cast", [x], {"dtype": F32})
    graph = b.finish([over_root(b, wide, moment_of(b, wide))])
    result, _ = rewritten(graph, raise_rms_norm())
    assert operators(result) == ["cast", "rms_norm"]
    assert worst(graph, result) == 0.0


def wrong(kind: str) -> Graph:
    """What looks like a norm and is none."""
    b = GraphBuilder("g")
    x, y = (b.input(name, TensorType(F32, (5, 5))) for name in "xy")
    if kind == "another x":
        return b.finish([over_root(b, y, moment_of(b, x))])
    if kind == "a product of two":
        mean = b.one("mean", [b.one("mul", [x, y])], {"dims": [1], "keepdim": True})
        return b.finish([over_root(b, x, b.one("abs", [mean]))])
    attrs: dict[str, object] = {"dims": [1], "keepdim": True}
    if kind == "wrong axis":
        attrs["dims"] = [0]
    if kind == "both axes":
        attrs["dims"] = [0, 1]
    if kind == "no keepdim":
        attrs["keepdim"] = False
    power: dict[str, object] = {"scalar": 3.0 if kind == "cubes" else 2.0}
    power["reverse"] = kind == "powers of two"
    reduce = "sum" if kind == "sum" else "mean"
    moment = b.one(reduce, [b.one("pow", [x], power)], attrs)  # type: ignore[arg-type]
    if kind == "eps outside":
        root = b.one("add", [b.one("sqrt", [moment])], {"scalar": 1e-2})
        return b.finish([b.one("div", [x, root])])
    moment = b.one("add", [moment], {"scalar": -1e-3 if kind == "negative eps" else 1e-5})
    if kind == "two over":
        root = b.one("div", [b.one("sqrt", [moment])], {"scalar": 2.0, "reverse": True})
        return b.finish([b.one("mul", [x, root])])
    if kind == "upside down":
        return b.finish([b.one("div", [b.one("sqrt", [moment]), x])])
    if kind == "not inverse":
        return b.finish([b.one("mul", [x, b.one("sqrt", [moment])])])
    return b.finish([over_root(b, x, moment)])


WRONG = {
    "another x": "x is %y elsewhere, not %x",
    "a product of two": "",
    "wrong axis": "over dimensions (0,)",
    "both axes": "over dimensions (0, 1)",
    "no keepdim": "drops its dimension",
    "cubes": "scalar = 3.0, not 2.0",
    "powers of two": "reverse = True, not False",
    "sum": "rsqrt is part of no norm",
    "eps outside": "",
    "negative eps": "rsqrt is part of no norm",
    "two over": "",
    "upside down": "",
    "not inverse": "",
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_only_looks_like_a_norm_is_left_alone(kind: str) -> None:
    graph = wrong(kind)
    result, entries = rewritten(graph, raise_rms_norm())
    assert result is graph
    assert WRONG[kind] in reasons(entries)


def test_a_leftover_is_in_the_ledger_with_its_node() -> None:
    b = GraphBuilder("g")
    x = b.input("x", TensorType(F32, (T, 7)))
    _, entries = rewritten(b.finish([b.one("rsqrt", [b.one("abs", [x])])]), raise_rms_norm())
    (entry,) = entries
    assert (entry.reason, entry.culprits) == ("rsqrt is part of no norm", ("%1",))

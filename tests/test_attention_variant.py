from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from graphopt import attention_variant as va
from graphopt.attention_variant import AttentionVariant, attention, where, with_variant
from graphopt.errors import UsageError
from graphopt.ir.builder import GraphBuilder
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph
from graphopt.ir.ops_scores import FUNCTIONS
from graphopt.ir.parser import parse_graph
from graphopt.ir.printer import print_graph
from graphopt.ir.reference_scores import mask_expression, score_expression
from graphopt.ir.shape import sym
from graphopt.ir.types import LayerState, StateType, TensorType
from graphopt.ir.verify import verify


def scored(function: Any, plain: Any = None) -> None:
    """The traced expression computes what the function does of plain numbers."""
    expression = score_expression(attention(score=function).score)
    assert expression is not None
    for numbers in ((0.5, 7, 3, 2, 1), (-2.25, 40, 0, 5, 0), (1.0, 9, 9, 0, 3)):
        names = dict(zip(("score", "q", "k", "head", "sequence"), numbers, strict=True))
        tensors = {name: torch.tensor(float(x), dtype=torch.float64) for name, x in names.items()}
        assert expression(tensors).item() == pytest.approx((plain or function)(*numbers))


def test_operators() -> None:
    scored(lambda s, q, k, h, n: s - 0.5 ** (h + 1) * (q - k) / 3)
    scored(lambda s, q, k, h, n: +s * -2 + (1 - abs(s)) + 3 / (k + 1))
    scored(lambda s, q, k, h, n: q // 4 * 10 + k % 3 + 100 // (k + 1) + 7 % (h + 2))
    scored(lambda s, q, k, h, n: s + (q > k) * 2 - (n == 1), None)
    scored(lambda s, q, k, h, n: (q - k) ** 2 + s)


def test_functions() -> None:
    for name in ("exp", "expm1", "sin", "cos", "tan", "tanh", "erf", "floor", "ceil"):
        traced, plain = getattr(va, name), getattr(math, name)
        scored(lambda s, *_, f=traced: f(s), lambda s, *_, f=plain: f(s))
    for name in ("sqrt", "log", "log1p"):
        traced, plain = getattr(va, name), getattr(math, name)
        scored(lambda s, q, *_, f=traced: f(q), lambda s, q, *_, f=plain: f(q))
    scored(lambda s, q, *_: va.rsqrt(q), lambda s, q, *_: q**-0.5)
    scored(
        lambda s, q, k, *_: va.minimum(q, k) + va.maximum(s, 0), lambda s, q, k, *_: k + max(s, 0)
    )
    scored(lambda s, q, k, *_: where(q > k, s, -1), lambda s, q, k, *_: s if q > k else -1)
    assert {name for name in FUNCTIONS if hasattr(va, name)} | {
        "abs", "round", "pow", "remainder", "floor_div"
    } == set(FUNCTIONS)  # fmt: skip


def test_masks() -> None:
    def mask(q: Any, k: Any, head: Any, sequence: Any) -> Any:
        return where(head < 2, q - k < 4, (k == 0) | ~(q // 4 != k // 4)) & (
            True if q is k else k > -1
        )

    expression = mask_expression(attention(mask=mask).mask)
    assert expression is not None
    for q, k, head in ((5, 3, 0), (9, 3, 1), (9, 8, 3), (9, 7, 2), (9, 0, 3)):
        names = {
            name: torch.tensor(float(x))
            for name, x in (("q", q), ("k", k), ("head", head), ("sequence", 0))
        }
        expected = q - k < 4 if head < 2 else k == 0 or q // 4 == k // 4
        assert bool(expression(names)) == expected


def test_a_constant_score() -> None:
    assert attention(score=lambda *_: 0).score == "0.0"
    assert attention(score=lambda *_: -math.inf).score == "-inf"
    assert attention() == AttentionVariant()


def _chain(s: Any, *_: Any) -> Any:
    for _ in range(200):
        s = s + 1
    return s


def _double(s: Any, *_: Any) -> Any:
    for _ in range(40):
        s = s + s
    return s


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda s, q, k, h, n: s if q > k else 0, "not known yet"),
        (lambda s, q, k, h, n: 0 < s < q, "not known yet"),
        (lambda s, q, k, h, n: min(s, q), "not known yet"),
        (lambda s, q, k, h, n: math.exp(s), "not known yet"),
        (lambda s, q, k, h, n: np.exp(s), "ufunc"),
        (lambda s, q, k, h, n: [1.0, 2.0][k], "not known yet"),
        (lambda s, q, k, h, n: sum(s), "one number"),
        (lambda s, q, k, h, n: s + "1", "str in an expression"),
        (lambda s, q, k, h, n: None, "NoneType in an expression"),
        (lambda s, q, k, h, n: s & 1, "a number where a condition belongs"),
        (lambda s, q: s, "arguments"),
        (lambda s, q, k, h, n: s.exp(), "AttributeError"),
        (lambda s, q, k, h, n: s / unknown, "NameError"),  # type: ignore[name-defined] # noqa: F821
        (lambda s, q, k, h, n: s + 1 / 0, "ZeroDivisionError"),
        (_chain, "too long"),
        (_double, "too long"),
    ],
)
def test_what_cannot_be_traced(function: Any, message: str) -> None:
    with pytest.raises(UsageError, match="score cannot be traced") as caught:
        attention(score=function)
    assert message in str(caught.value)
    assert "test_attention_variant.py:" in (caught.value.where or "")


def test_the_line_at_fault_is_shown() -> None:
    def helper(x: Any) -> Any:
        return x if x > 0 else -x  # the line at fault

    with pytest.raises(UsageError) as caught:
        attention(score=lambda s, q, k, h, n: helper(s))
    assert "return x if x > 0 else -x  # the line at fault" in str(caught.value)
    with pytest.raises(UsageError, match="mask cannot be traced"):
        attention(mask=lambda q, k, h, n: q - k)


def graph_of(layers: int) -> Graph:
    b = GraphBuilder("model")
    tokens, sequences, blocks = sym("T"), sym("S"), sym("P")
    state = StateType("kv", (LayerState(1, 4, 4, DType.F32),) * layers)
    x = b.input("x", TensorType(DType.F32, (tokens, 2, 4)))
    rest = [
        b.input("kv", state),
        b.input("starts", TensorType(DType.I32, (sequences + 1,))),
        b.input("lengths", TensorType(DType.I32, (sequences,))),
        b.input("tables", TensorType(DType.I32, (sequences, blocks))),
    ]
    for layer in range(layers):
        (x,) = b.node("attention", [x, *rest], {"layer": layer, "scale": 0.5})
    return b.finish([x])


VARIANT = attention(
    score=lambda s, q, k, h, n: s * 2, mask=lambda q, k, h, n: (q - k < 4) | (k == 0)
)


def test_a_graph_carries_its_variant_as_text() -> None:
    graph = with_variant(graph_of(3), VARIANT, layers=[0, 2])
    verify(graph)
    first, middle, last = graph.nodes
    assert first.attrs["score"] == last.attrs["score"] == "score * 2.0"
    assert "score" not in middle.attrs
    assert "mask" not in middle.attrs
    text = print_graph(graph)
    assert print_graph(parse_graph(text)) == text
    whole = with_variant(graph_of(2), AttentionVariant(mask="q == k"))
    assert [dict(node.attrs).get("mask") for node in whole.nodes] == ["q == k"] * 2
    assert all("score" not in node.attrs for node in whole.nodes)


def test_what_a_graph_refuses() -> None:
    with pytest.raises(UsageError, match="no such attention") as caught:
        with_variant(graph_of(2), VARIANT, layers=[1, 5])
    assert caught.value.got == "layers 5"
    with pytest.raises(UsageError, match="no such attention"):
        with_variant(graph_of(0), VARIANT)
    once = with_variant(graph_of(2), VARIANT, layers=[1])
    with pytest.raises(UsageError, match="layer 1 has a variant"):
        with_variant(once, VARIANT)

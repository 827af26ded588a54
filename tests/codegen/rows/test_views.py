"""Views of an operand lie where numpy says."""

from __future__ import annotations

import numpy as np
import pytest

from graphopt.codegen.rows.views import view_of
from graphopt.ir.builder import GraphBuilder
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Attr, Value
from graphopt.ir.interpreter import Interpreter
from graphopt.ir.shape import Dim, evaluate, sym
from graphopt.ir.types import TensorType
from graphopt.region import make_region

T = sym("T")
TOKENS = 5
VIEWS: dict[str, tuple[tuple[Dim, ...], tuple[tuple[str, dict[str, Attr]], ...]]] = {
    "none": ((T, 3), ()),
    "heads": (
        (T, 24),
        (
            ("reshape", {"shape": (T, 4, 6)}),
            ("permute", {"dims": (1, 0, 2)}),
            ("slice", {"dim": 2, "start": 1, "end": 6, "step": 2}),
        ),
    ),
    "one": ((T, 3, 4), (("select", {"dim": 1, "index": 2}),)),
    "repeated": ((1, T, 4), (("expand", {"shape": (7, T, 4)}),)),
    "backwards": ((4, T, 3), (("flip", {"dims": (0, 2)}), ("permute", {"dims": (2, 1, 0)}))),
    "of rows": ((2, T, 8), (("reshape", {"shape": (2 * T, 8)}),)),
}


def elements(offset: int, shape: list[int], strides: list[int]) -> np.ndarray:
    found = np.full(shape, offset, dtype=np.int64)
    for dim, stride in enumerate(strides):
        found += np.arange(shape[dim]).reshape([-1, *[1] * (len(shape) - dim - 1)]) * stride
    return found


@pytest.mark.parametrize("name", VIEWS)
@pytest.mark.parametrize("part", [0, 1])
def test_elements_lie_where_the_interpreter_finds_them(name: str, part: int) -> None:
    shape, steps = VIEWS[name]
    b = GraphBuilder("views")
    x = value = b.input("x", TensorType(DType.I64, shape))
    for op, attrs in steps:
        value = b.one(op, [value], attrs)
    last = value.type
    assert isinstance(last, TensorType)
    size = last.shape[-1]
    assert isinstance(size, int)
    parts = b.node("split", [value], {"dim": len(last.shape) - 1, "sizes": (1, size - 1)})
    graph = b.finish([b.one("neg", [parts[part]])])
    region = make_region(graph, range(len(graph.nodes)))
    view = view_of(graph, region, parts[part])
    assert view is not None
    assert view.operand == x
    env = {"T": TOKENS}
    numbers = np.arange(np.prod([evaluate(size, env) for size in shape])).reshape(
        [evaluate(size, env) for size in shape]
    )
    (wanted,) = Interpreter(graph, {}).run({"x": numbers})
    sizes = [evaluate(size, env) for size in view.access.shape]
    strides = [evaluate(stride, env) for stride in view.access.strides]
    found = elements(evaluate(view.access.offset, env), sizes, strides)
    np.testing.assert_array_equal(-found, wanted.numpy())


def test_what_is_computed_or_not_strided_is_no_view() -> None:
    b = GraphBuilder("computed")
    x = b.input("x", TensorType(DType.F32, (T, 4)))
    turned = b.one("permute", [x], {"dims": (1, 0)})
    flat = b.one("reshape", [turned], {"shape": (T * 4,)})
    doubled = b.one("add", [x, x])
    graph = b.finish([b.one("neg", [flat]), b.one("neg", [doubled])])
    region = make_region(graph, range(len(graph.nodes)))
    values: tuple[Value, ...] = (flat, doubled, b.input("y", TensorType(DType.F32, (T,))))
    assert [view_of(graph, region, value) for value in values] == [None] * 3
    found = view_of(graph, region, turned)
    assert found is not None
    assert found.access.strides == (1, 4)

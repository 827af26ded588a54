"""Products with constant matrices become linear maps, and no other products do."""

import pytest

from graphopt.ir.builder import GraphBuilder
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph
from graphopt.ir.shape import Dim, sym
from graphopt.ir.types import TensorType
from graphopt.passes.raise_linear import raise_linear
from graphopt.passes.remove_identities import RemoveIdentities

from .numbers import operators, reasons, rewritten, worst

T = sym("T")


def product(left: tuple[Dim, ...], right: tuple[Dim, ...], *, fixed: bool = True) -> Graph:
    b = GraphBuilder("g")
    x = b.input("x", TensorType(DType.F32, left))
    kind = TensorType(DType.F32, right)
    return b.finish([b.one("matmul", [x, b.weight("w", kind) if fixed else b.input("w", kind)])])


@pytest.mark.parametrize("left", [(T, 5), (5,), (2, T, 5)])
def test_a_constant_matrix(left: tuple[Dim, ...]) -> None:
    before = product(left, (5, 7))
    after, _ = rewritten(before, raise_linear())
    assert operators(after) == ["permute", "linear"]
    assert worst(before, after) < 1e-6


def test_a_weight_that_was_transposed_for_it_is_taken_as_it_is() -> None:
    b = GraphBuilder("g")
    x = b.input("x", TensorType(DType.F32, (T, 5)))
    turned = b.one("permute", [b.weight("w", TensorType(DType.F32, (7, 5)))], {"dims": (1, 0)})
    before = b.finish([b.one("matmul", [x, turned])])
    after, _ = rewritten(before, raise_linear(), RemoveIdentities())
    assert operators(after) == ["linear"]
    assert after.nodes[0].inputs[1].is_weight
    assert worst(before, after) < 1e-6


@pytest.mark.parametrize(
    ("graph", "reason"),
    [
        (product((T, 5), (5, 7), fixed=False), "computed in the step"),
        (product((2, T, 5), (2, 5, 7)), "no single matrix"),
        (product((T, 5), (5,)), "no single matrix"),
    ],
)
def test_other_products_are_refused(graph: Graph, reason: str) -> None:
    after, entries = rewritten(graph, raise_linear())
    assert after is graph
    assert reason in reasons(entries)

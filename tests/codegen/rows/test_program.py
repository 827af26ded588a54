"""What row programs of all targets share: their rows, their nodes, their comments."""

from __future__ import annotations

import pytest

from graphopt.codegen.rows.program import comment, needed, rows_of
from graphopt.codegen.rows.tree import RefusedError
from graphopt.ir.dtype import DType
from graphopt.ir.shape import sym
from graphopt.ir.types import LayerState, StateType, TensorType

from .cases import chain, operation, whole

T, S = sym("T"), sym("S")
F32 = DType.F32


def test_rows_of_results_and_of_writes() -> None:
    graph = operation("exp", [TensorType(F32, (4, T, 6))])
    assert rows_of(graph.outputs, graph, whole(graph)).symbol == "T"
    state = StateType("latent", (LayerState(1, 4, 0, F32),))

    def write(b, given):  # type: ignore[no-untyped-def]
        return [b.one("latent_write", [b.input("kv", state), *given], {"layer": 0})]

    graph = chain([TensorType(F32, (T, 1, 4)), TensorType(DType.I64, (T,))], write)
    assert rows_of(graph.outputs, graph, whole(graph)).symbol == "T"


def test_what_has_no_rows() -> None:
    graph = operation("exp", [TensorType(F32, (300, 300))])
    assert rows_of(graph.outputs, graph, whole(graph), most=90000).symbol is None
    with pytest.raises(RefusedError, match="no rows"):
        rows_of(graph.outputs, graph, whole(graph), most=89999)
    graph = operation("add", [TensorType(F32, (T, S))], scalar=1.0)
    with pytest.raises(RefusedError, match="rows could be"):
        rows_of(graph.outputs, graph, whole(graph))


def test_nodes_that_a_value_needs() -> None:
    def two(b, x):  # type: ignore[no-untyped-def]
        return [b.one("exp", [b.one("neg", x)]), b.one("sin", x)]

    graph = chain([TensorType(F32, (T, 4))], two)
    makers = {value: node for node in graph.nodes for value in node.outputs}
    assert {node.op for node in needed(graph.outputs[:1], makers)} == {"neg", "exp"}


def test_comments_are_wrapped_and_are_comments() -> None:
    assert comment("a = exp(b)", "#") == ["# a = exp(b)"]
    lines = comment("word " * 40)
    assert len(lines) > 1
    assert all(line.startswith("// ") and len(line) <= 96 for line in lines)
    assert comment("one\ntwo", "#") == ["# one two"]

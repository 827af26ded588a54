"""Which weights are packed: those that linear maps read, all in the same way, and nobody else."""

from __future__ import annotations

import pytest

from graphopt.codegen.cpp.layouts import layouts_of, linear_layouts
from graphopt.ir.builder import GraphBuilder
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph, Value
from graphopt.ir.shape import sym
from graphopt.ir.types import TensorType
from graphopt.packing import Layout, Quant
from graphopt.quantization import quant_of
from graphopt.region import Region, make_region
from tests.passes.models import lowered

T = sym("T")
TABLE = TensorType(DType.BF16, (20, 8))


class Builder:
    """One region per node, of the family of its operator."""

    def __init__(self) -> None:
        self.b = GraphBuilder("layouts")
        self.x = self.b.input("x", TensorType(DType.BF16, (T, 8)))
        self.ids = self.b.input("ids", TensorType(DType.I64, (T,)))

    def finish(self, *outputs: Value) -> tuple[Graph, list[Region]]:
        graph = self.b.finish(list(outputs))
        families = {"linear": "linear", "quantized_linear": "linear", "embed": "gather"}
        regions = [
            make_region(graph, [place], family=families.get(node.op, "pointwise"))
            for place, node in enumerate(graph.nodes)
        ]
        return graph, regions


def test_a_tied_table_is_packed_once_for_both() -> None:
    one = Builder()
    table = one.b.weight("table", TABLE)
    hidden = one.b.one("embed", [one.ids, table])
    assert layouts_of(*one.finish(one.b.one("linear", [hidden, table]))) == {
        "table": Layout.whole(20, 8)
    }


def test_a_table_that_only_an_embedding_reads_lies_row_after_row() -> None:
    one = Builder()
    assert layouts_of(*one.finish(one.b.one("embed", [one.ids, one.b.weight("t", TABLE)]))) == {}


def test_a_weight_that_something_else_reads_is_not_packed() -> None:
    one = Builder()
    weight = one.b.weight("w", TABLE)
    total = one.b.one("sum", [weight], {"dims": (1,)})
    assert layouts_of(*one.finish(one.b.one("linear", [one.x, weight]), total)) == {}


def test_a_weight_that_is_its_own_operand_is_not_packed() -> None:
    one = Builder()
    weight = one.b.weight("w", TensorType(DType.BF16, (8, 8)))
    assert layouts_of(*one.finish(one.b.one("linear", [weight, weight]))) == {}


def test_readers_that_want_different_parts_get_none() -> None:
    one = Builder()
    weight = one.b.weight("w", TABLE)
    first = one.b.one("linear", [one.x, weight])
    halves = one.b.node("split", [first], {"dim": 1, "sizes": (10, 10)})
    gated = one.b.one("glu", halves)
    second = one.b.one("linear", [one.x, weight])
    graph = one.b.finish([gated, second])
    gate = make_region(graph, [0, 1, 2], family="linear")
    plain = make_region(graph, [3], family="linear")
    assert linear_layouts(graph, gate) == {"w": Layout(20, 8, ((0, 10, 1), (10, 20, 1)))}
    assert linear_layouts(graph, plain) == {"w": Layout.whole(20, 8)}
    assert layouts_of(graph, [gate]) == linear_layouts(graph, gate)
    assert layouts_of(graph, [gate, plain]) == {}


@pytest.mark.parametrize(
    ("dtype", "packed"),
    [(DType.F32, True), (DType.F16, True), (DType.BF16, True), (DType.F64, False)],
)
def test_types_that_kernels_read(dtype: DType, packed: bool) -> None:
    b = GraphBuilder("types")
    x = b.input("x", TensorType(dtype, (T, 8)))
    graph = b.finish([b.one("linear", [x, b.weight("w", TensorType(dtype, (3, 8)))])])
    assert bool(layouts_of(graph, [make_region(graph, [0], family="linear")])) == packed


@pytest.mark.parametrize(
    ("quant", "packed"), [(quant_of(8), True), (quant_of(4), True), (Quant(8, 32), False)]
)
def test_quantizations_that_kernels_read(quant: Quant, packed: bool) -> None:
    one = Builder()
    q = one.b.weight("q", TensorType(DType.I8, (20, 8)))
    s = one.b.weight("s", TensorType(DType.F16, (20, 1)))
    attrs = {"bits": quant.bits, "group": quant.group}
    found = layouts_of(*one.finish(one.b.one("quantized_linear", [one.x, q, s], attrs)))
    whole = Layout(20, 8, ((0, 20, 1),), quant=quant, scales="s")
    assert found == ({"q": whole} if packed else {})


@pytest.mark.parametrize("name", ["llama", "deepseek_v3"])
def test_every_large_weight_of_real_families_is_packed(name: str) -> None:
    found = lowered(name, "cpu")
    layouts = layouts_of(found.graph, found.regions)
    read = {
        node.inputs[1].name
        for node in found.graph.nodes
        if node.op in ("linear", "matmul") and node.inputs[1].is_weight
    }
    assert read
    assert read <= layouts.keys()

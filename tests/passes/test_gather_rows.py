"""Work that treats every row alike is done for the asked rows only."""

import torch

from graphopt.ir.builder import GraphBuilder
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph, Value
from graphopt.ir.shape import sym
from graphopt.ir.types import TensorType
from graphopt.passes.gather_rows import GatherRows

from .numbers import operators, outputs, random_values, rewritten

T, R = sym("T"), 3


def model(*, dim: int = 0, used: bool = False, by_row: bool = False) -> Graph:
    b = GraphBuilder("g")
    x = b.input("x", TensorType(DType.F32, (T, 6)))
    rows = b.input("rows", TensorType(DType.I64, (R,)))
    w = b.weight("w", TensorType(DType.F32, (6,)))
    table: Value = b.input("table", TensorType(DType.F32, (T, 6))) if by_row else w
    y = b.one("mul", [b.one("neg", [x]), table])
    n = b.one("rms_norm", [y, w], {"eps": 1e-6})
    picked = b.one("index_select", [n, rows], {"dim": dim})
    return b.finish([picked, n] if used else [picked])


def chosen_first(graph: Graph) -> list[str]:
    return operators(rewritten(graph, GatherRows())[0])


def test_the_choice_moves_above_norms_and_pointwise_work() -> None:
    before = model()
    after, (entry,) = rewritten(before, GatherRows())
    assert operators(after) == ["index_select", "neg", "mul", "rms_norm"]
    assert entry.reason == "rms_norm, mul, neg for the asked rows only"
    inputs, weights = random_values(before, 7, 0)
    inputs["rows"] = torch.tensor([6, 0, 6])
    (old,), (new,) = (outputs(graph, inputs, weights) for graph in (before, after))
    assert old.equal(new)


def test_it_stops_where_somebody_reads_all_rows() -> None:
    assert chosen_first(model(used=True)) == ["neg", "mul", "rms_norm", "index_select"]


def test_a_table_that_is_made_once_keeps_its_rows() -> None:
    b = GraphBuilder("g")
    b.input("x", TensorType(DType.F32, (T, 6)))
    rows = b.input("rows", TensorType(DType.I64, (R,)))
    table = b.one("cos", [b.weight("w", TensorType(DType.F32, (4, 6)))])
    picked = b.one("neg", [b.one("index_select", [table, rows], {"dim": 0})])
    assert chosen_first(b.finish([picked])) == ["cos", "index_select", "neg"]


def test_it_stops_where_an_operand_depends_on_the_row() -> None:
    assert chosen_first(model(by_row=True)) == ["neg", "mul", "index_select", "rms_norm"]


def test_a_choice_of_columns_stays() -> None:
    assert chosen_first(model(dim=1)) == ["neg", "mul", "rms_norm", "index_select"]


def test_it_stops_at_what_is_made_of_nothing() -> None:
    b = GraphBuilder("g")
    rows = b.input("rows", TensorType(DType.I64, (R,)))
    full = b.one("full", [], {"shape": (8, 6), "dtype": DType.F32, "value": 0.5})
    assert chosen_first(b.finish([b.one("index_select", [full, rows], {"dim": 0})])) == [
        "full",
        "index_select",
    ]

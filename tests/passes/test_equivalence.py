"""What keeps a graph's meaning agrees, and each kind of loss is seen where it can be."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
import torch

from graphopt.errors import CompileError
from graphopt.ir.builder import GraphBuilder, Rewriter, rewrite_nodes
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph, Node
from graphopt.ir.shape import sym
from graphopt.ir.tolerance import FLOORS
from graphopt.ir.types import TensorType
from graphopt.passes.equivalence import Comparer, Comparison, checking, own_dtype
from graphopt.passes.manager import run_passes
from graphopt.passes.pipeline import decoder_pipeline
from graphopt.passes.rules import RulePass
from tests.passes import wrong

Visit = Callable[[Rewriter, Node], bool]


def changed(graph: Graph, op: str, attrs: dict[str, object], number: int = 0) -> Graph:
    """The graph with other attributes at one node of an operator."""
    at = graph.nodes_named(op)[number]

    def visit(rewriter: Rewriter, node: Node) -> bool:
        if node is at:
            made = rewriter.one(op, node.inputs, {**node.attrs, **attrs})  # type: ignore[dict-item]
            rewriter.replace(node.output, made)
        return node is at

    return rewrite_nodes(graph, visit)


@pytest.mark.parametrize("dtype", [DType.F32, DType.BF16, DType.F16])
def test_right_passes_agree(dtype: DType) -> None:
    graph = wrong.decoder(dtype)
    after, _ = run_passes(graph, [wrong.gates(), *decoder_pipeline()])
    found = Comparer(graph).compare(graph, after)
    assert all(one.agrees for one in found)
    assert [one.dtype for one in found] == [DType.F32] + [dtype] * (dtype is not DType.F32)
    assert all(one.tolerance >= FLOORS[one.dtype] for one in found)


@pytest.mark.parametrize("layer", range(wrong.LAYERS))
@pytest.mark.parametrize(
    ("op", "attrs"),
    [
        ("attention", {"window": 250}),  # only the sequence that is far ahead tells
        ("attention", {"scale": 0.5001}),
        ("add", {"scalar": 2e-6}),  # epsilon, of the norms
    ],
)
def test_small_errors_anywhere_are_seen(layer: int, op: str, attrs: dict[str, object]) -> None:
    graph = wrong.decoder(DType.BF16, positions=1000)
    places = [i for i, n in enumerate(graph.nodes_named(op)) if attrs.keys() & n.attrs.keys()]
    if op == "add":
        places = [i for i, n in enumerate(graph.nodes_named(op)) if len(n.inputs) == 1]
    found = Comparer(graph).disagreement(graph, changed(graph, op, attrs, places[layer]))
    assert found is not None
    assert not found.is_own


def positions_graph(dtype: DType) -> Graph:
    """cos(cast(positions) * w), with positions kept in ``dtype``."""
    b = GraphBuilder("g")
    positions = b.input("positions", TensorType(DType.I64, (sym("T"),)))
    slots = b.input("slots", TensorType(DType.I64, (sym("T"),)))
    x = b.one("cast", [b.one("cast", [positions], {"dtype": dtype})], {"dtype": DType.F32})
    x = b.one("reshape", [x], {"shape": (sym("T"), 1)})
    x = b.one("cos", [b.one("mul", [x, b.weight("w", TensorType(DType.F32, (8,)))])])
    still = b.one(
        "reshape", [b.one("cast", [slots], {"dtype": DType.F32})], {"shape": (sym("T"), 1)}
    )
    return b.finish([b.one("cast", [x], {"dtype": DType.BF16}), still])


def test_lost_precision_is_seen_in_the_graphs_own_type() -> None:
    before, after = positions_graph(DType.F32), positions_graph(DType.BF16)
    comparer = Comparer(before)
    meaning, precision = comparer.compare(before, after)
    assert meaning.agrees  # widened, the two are the same
    assert precision.is_own
    assert not precision.agrees
    assert comparer.disagreement(before, after) is precision or precision.row.error > 0.1


def test_padding_is_left_out() -> None:
    """What a graph makes of padding is its own affair."""
    b = GraphBuilder("g")
    t = (sym("T"),)
    slots, x = b.input("slots", TensorType(DType.I64, t)), b.input("x", TensorType(DType.F32, t))
    before = b.finish([x])
    b = GraphBuilder("g")
    slots, x = b.adopt_input(slots), b.adopt_input(x)
    padding = b.one("cast", [b.one("eq", [slots], {"scalar": -1})], {"dtype": DType.F32})
    after = b.finish([b.one("add", [x, padding])])
    assert Comparer(before).disagreement(before, after) is None


def with_outputs(graph: Graph, make: Callable[[Rewriter], list[object]]) -> Graph:
    rewriter = Rewriter(graph)
    for node in graph.nodes:
        rewriter.copy(node)
    return rewriter.finish(make(rewriter))  # type: ignore[arg-type]


def test_other_outputs_disagree() -> None:
    graph = wrong.decoder()
    out = graph.outputs[0]
    double = with_outputs(graph, lambda r: [out, out])
    found = Comparer(graph).disagreement(graph, double)
    assert found is not None
    assert found.row.output == "count"
    transposed = with_outputs(graph, lambda r: [r.one("permute", [out], {"dims": (1, 0)})])
    found = Comparer(graph).disagreement(graph, transposed)
    assert found is not None
    assert found.row.output == "%82's shape"


def test_nan_disagrees_unless_both_have_it() -> None:
    graph = wrong.decoder()
    out = graph.outputs[0]
    nan = with_outputs(graph, lambda r: [r.one("mul", [out], {"scalar": float("nan")})])
    comparer = Comparer(graph)
    assert comparer.disagreement(graph, nan) is not None
    assert comparer.disagreement(nan, graph) is not None
    assert comparer.disagreement(nan, with_outputs(nan, lambda r: [nan.outputs[0]])) is None


def test_a_wrong_pass_is_named_with_its_numbers() -> None:
    graph = wrong.decoder(DType.BF16)
    heard: list[tuple[str, int]] = []
    observe = checking(Comparer(graph), lambda name, found: heard.append((name, len(found))))
    with pytest.raises(CompileError, match="pass bad changed the numbers") as caught:
        run_passes(graph, [wrong.gates(), RulePass("bad", [wrong.LostEpsilon()])], observe=observe)
    assert caught.value.where is not None
    assert "of output %82" in caught.value.where
    assert "relative error" in str(caught.value.got)
    assert "the row begins" in str(caught.value.expected)
    assert "--disable-pass bad" in str(caught.value.next)
    assert heard == [("gates", 2), ("bad", 1)]


def test_constants_are_used() -> None:
    graph = wrong.decoder()
    same = changed(graph, "attention", {"scale": 0.7})
    zero = {f"{n}.v": torch.zeros(wrong.HEADS * wrong.SIZE, wrong.HIDDEN) for n in range(3)}
    assert Comparer(graph).disagreement(graph, same) is not None
    quiet = Comparer(graph, zero).compare(
        graph, same
    )  # with no values the scale does not matter much
    assert quiet[0].row.error < Comparer(graph).compare(graph, same)[0].row.error


def test_own_dtype() -> None:
    assert own_dtype(wrong.decoder(DType.BF16)) is DType.BF16
    assert own_dtype(wrong.decoder()) is DType.F32


def test_json_and_back() -> None:
    graph = wrong.decoder()
    (found,) = Comparer(graph).compare(graph, graph)
    assert Comparison.from_json(json.loads(json.dumps(found.to_json()))) == found

"""Constant work is done once; no large weight is kept twice or grows."""

import pytest
import torch

from graphopt.ir.builder import GraphBuilder
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph
from graphopt.ir.interpreter import Interpreter
from graphopt.ir.shape import sym
from graphopt.ir.types import TensorType
from graphopt.ir.verify import verify
from graphopt.ledger import Ledger
from graphopt.passes.hoist import hoist, joined, not_hoisted

from .numbers import random_values

T = sym("T")
LARGE = 1024


def check(graph: Graph, tokens: int = 3) -> tuple[list[str], list[str], Ledger]:
    """Hoists; the parts together compute what the whole did. Gives both parts' operators."""
    ledger = Ledger()
    found = hoist(graph, ledger)
    verify(found.graph)
    verify(found.constants)
    inputs, weights = random_values(graph, tokens, 0)
    made = Interpreter(found.constants, weights).run({})
    folded = {value.name: t for value, t in zip(found.constants.outputs, made, strict=True)}
    old = Interpreter(graph, weights).run(inputs)
    new = Interpreter(found.graph, {**weights, **folded}).run(inputs)
    assert all(torch.equal(a, b) for a, b in zip(old, new, strict=True))
    ops = ([node.op for node in part.nodes] for part in (found.graph, found.constants))
    return (*ops, ledger)


def packed() -> Graph:
    b = GraphBuilder("g")
    x = b.input("x", TensorType(DType.F32, (T, 4)))
    q, k = (b.weight(f"a.{n}.weight", TensorType(DType.F32, (3, 4))) for n in ("q", "k"))
    w = b.one("concat", [q, k], {"dim": 0})
    return b.finish([b.one("linear", [x, b.one("mul", [w], {"scalar": 0.5})])])


def test_packed_weights_are_made_once() -> None:
    graph, constants, ledger = check(packed())
    assert (graph, constants) == (["linear"], ["concat", "mul"])
    (entry,) = ledger.entries
    assert entry.where == "@a.q-k.weight"
    assert entry.reason == "made once from @a.q.weight, @a.k.weight"


def test_a_graph_without_constants_is_left_alone() -> None:
    b = GraphBuilder("g")
    graph = b.finish([b.one("neg", [b.input("x", TensorType(DType.F32, (T,)))])])
    assert check(graph)[1] == []


def test_names_are_taken_once() -> None:
    b = GraphBuilder("g")
    w = b.weight("w", TensorType(DType.F32, (4,)))
    taken = b.weight("w.folded", TensorType(DType.F32, (4,)))
    parts = b.node("split", [w], {"sizes": (1, 3), "dim": 0})
    x = b.input("x", TensorType(DType.F32, (T, 1)))
    graph = b.finish([b.one("mul", [x, part]) for part in (*parts, taken)])
    found = hoist(graph, Ledger())
    assert [v.name for v in found.constants.outputs] == ["w.folded.2", "w.folded.3"]
    check(graph)


def test_names_of_values_are_not_taken_either() -> None:
    b = GraphBuilder("g")
    w = b.weight("w", TensorType(DType.F32, (1,)))
    inner = b.one("neg", [w], names=["w.folded"])
    x = b.input("x", TensorType(DType.F32, (T, 1)))
    graph = b.finish([b.one("mul", [x, b.one("exp", [inner])])])
    assert [v.name for v in hoist(graph, Ledger()).constants.outputs] == ["w.folded.2"]
    check(graph)


def large(*, grows: bool = False, read: bool = False) -> Graph:
    b = GraphBuilder("g")
    kind = TensorType(DType.BF16 if grows else DType.F32, (LARGE, LARGE))
    w = b.weight("w", kind)
    x = b.input("x", TensorType(DType.F32, (T, LARGE)))
    if grows:
        moved = b.one("cast", [w], {"dtype": DType.F32})
    else:
        moved = b.one("permute", [w], {"dims": (1, 0)})
    outputs = [b.one("linear", [x, moved])]
    if read:
        outputs.append(b.one("linear", [x, w]))
    return b.finish(outputs)


def test_a_large_weight_may_change_its_layout() -> None:
    assert check(large(), 1)[:2] == (["linear"], ["permute"])


@pytest.mark.parametrize(
    ("graph", "reason"),
    [
        (large(grows=True), "it takes more memory than what it is made from"),
        (large(read=True), "@w is read as it is too, and would be kept twice"),
    ],
)
def test_a_large_constant_that_costs_memory_stays(graph: Graph, reason: str) -> None:
    ops, constants, ledger = check(graph, 1)
    assert constants == []
    assert len(ops) == len(graph.nodes)
    assert [(entry.applied, entry.reason) for entry in ledger.entries] == [(False, reason)]


def test_joined_names() -> None:
    assert joined(["l.0.q.weight", "l.0.k.weight"]) == "l.0.q-k.weight"
    assert joined(["l.0.q.weight"]) == "l.0.q.weight.folded"
    assert joined(["a", "b"]) == "a-b"
    assert joined(["x.a", "x.a.b"]) == "x.a.b"
    assert joined(["l.0.w", "l.1.w", "l.0.w"]) == "l.0-1.w"


def test_weights_that_change_are_worked_on_in_every_step() -> None:
    graph = packed()
    found = not_hoisted(graph)
    verify(found.constants)
    assert found.graph is graph
    assert found.constants.outputs == ()


def test_a_refusal_is_heard_by_what_was_accepted_before_it() -> None:
    """The widened copy stays in the graph and reads the weight, so no turned copy is made of it."""
    b = GraphBuilder("g")
    w = b.weight("w", TensorType(DType.BF16, (LARGE, LARGE)))
    x = b.input("x", TensorType(DType.F32, (T, LARGE)))
    y = b.input("y", TensorType(DType.BF16, (T, LARGE)))
    wide = b.one("cast", [w], {"dtype": DType.F32})
    turned = b.one("permute", [w], {"dims": (1, 0)})
    ops, constants, _ = check(
        b.finish([b.one("linear", [x, wide]), b.one("linear", [y, turned])]), 1
    )
    assert constants == []
    assert ops == ["cast", "permute", "linear", "linear"]

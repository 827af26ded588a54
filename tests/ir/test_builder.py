from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.errors import VerifyError
from graphopt.ir.builder import (
    GraphBuilder,
    Rewriter,
    renumbered,
    rewrite_nodes,
    without_dead_nodes,
)
from graphopt.ir.compare import difference, same_graph
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph, Node, Operand, SourceLocation
from graphopt.ir.ops_pointwise import COMPUTED_FLOATS
from graphopt.ir.printer import print_graph
from graphopt.ir.shape import sym
from graphopt.ir.types import LayerState, StateType, TensorType
from graphopt.ir.verify import verify

from .graphs import random_graph

T = sym("T")
F = TensorType(DType.F32, (T, 3))
KV = StateType("kv", (LayerState(1, 4, 4, DType.F32),))


def chain() -> Graph:
    b = GraphBuilder("chain")
    x, w = b.input("x", F), b.weight("w", TensorType(DType.F32, (3,)))
    y = b.one("mul", [b.one("neg", [b.one("add", [x, w])])], {"scalar": 2})
    return b.finish([y])


def test_names_are_fresh_and_never_taken() -> None:
    b = GraphBuilder("g", reserved=["2"])
    x = b.input("0", F)
    assert [b.one("neg", [x]).name for _ in range(3)] == ["1", "3", "4"]
    assert b.one("neg", [x], names=["y"]).name == "y"
    with pytest.raises(VerifyError, match="two values are called %y"):
        b.one("neg", [x], names=["y"])
    with pytest.raises(VerifyError, match="two values are called %0"):
        b.input("0", F)


def test_attributes_become_canonical() -> None:
    b = GraphBuilder("g")
    x = b.input("x", F)
    b.one("softmax", [x], {"dim": -1})
    b.one("mul", [x], {"scalar": 2})
    b.one("sum", [x])
    b.one("reshape", [x], {"shape": [-1]})  # type: ignore[dict-item]
    b.one("slice", [x], {"dim": 0, "start": 1, "end": 1 << 63})
    attrs = [dict(node.attrs) for node in b.nodes]
    assert attrs == [
        {"dim": 1},
        {"scalar": 2.0, "reverse": False},
        {"dims": (0, 1), "keepdim": False},
        {"shape": (3 * T,)},
        {"dim": 0, "start": 1, "end": T, "step": 1},
    ]
    assert isinstance(attrs[1]["scalar"], float)
    with pytest.raises(TypeError):
        b.nodes[0].attrs["dim"] = 0  # type: ignore[index]


def test_mistakes_are_errors() -> None:
    b, other = GraphBuilder("g"), GraphBuilder("other")
    x, stranger = b.input("x", F), other.input("x", F)
    with pytest.raises(VerifyError, match="not a value of this graph"):
        b.one("neg", [stranger])
    with pytest.raises(VerifyError, match="unknown"):
        b.one("frobnicate", [x])
    with pytest.raises(VerifyError, match="'bogus' is unknown"):
        b.one("neg", [x], {"bogus": 1})
    with pytest.raises(VerifyError, match="other types"):
        b.one("neg", [x], types=[TensorType(DType.F32, ())])
    with pytest.raises(VerifyError, match="wrong number of names"):
        b.one("neg", [x], names=["a", "b"])
    with pytest.raises(VerifyError, match="does not have one output"):
        b.one("split", [x], {"dim": 1, "sizes": (1, 2)})
    with pytest.raises(VerifyError, match="not a value of graph"):
        b.finish([stranger])
    with pytest.raises(VerifyError, match="types of the outputs are not given"):
        b.one("aten.neg", [x], {"args": (Operand(0),)})
    with pytest.raises(VerifyError, match="does not use every input"):
        b.one("aten.neg", [x], {"args": ()}, types=[F])
    b.weight("w", F)
    with pytest.raises(VerifyError, match="two types"):
        b.weight("w", TensorType(DType.F32, ()))


def test_a_weight_is_made_once() -> None:
    b = GraphBuilder("g")
    assert b.weight("w", F) is b.weight("w", F)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_copying_everything_changes_nothing_but_dead_nodes(seed: int) -> None:
    graph = random_graph(seed)
    copied = rewrite_nodes(graph, lambda rewriter, node: False)
    assert difference(without_dead_nodes(graph), copied) is None
    again = rewrite_nodes(copied, lambda rewriter, node: False)
    assert same_graph(copied, again)
    verify(copied)
    assert all(a is b for a, b in zip(copied.nodes, again.nodes, strict=True))


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_random_replacements_stay_well_formed(seed: int) -> None:
    graph, rng = random_graph(seed), Random(seed)

    def visit(rewriter: Rewriter, node: Node) -> bool:
        type_ = node.output.type
        floats = isinstance(type_, TensorType) and type_.dtype in COMPUTED_FLOATS
        if len(node.outputs) > 1 or not floats or rng.random() < 0.5:
            return False
        now = rewriter.copy(node)[0]
        twice = rewriter.one("neg", [rewriter.one("neg", [now], loc=node.loc)])
        rewriter.replace(node.output, twice)
        return True

    changed = rewrite_nodes(graph, visit)
    verify(changed)
    assert [value.type for value in changed.outputs] == [value.type for value in graph.outputs]


def test_replacing_shares_what_does_not_change() -> None:
    graph = chain()

    def visit(rewriter: Rewriter, node: Node) -> bool:
        if node.op != "neg":
            return False
        loc = SourceLocation("m.py", 1)
        rewriter.replace(node.output, rewriter.one("mul", node.inputs, {"scalar": -1}, loc=loc))
        return True

    changed = rewrite_nodes(graph, visit)
    assert [node.op for node in changed.nodes] == ["add", "mul", "mul"]
    assert changed.nodes[0] is graph.nodes[0]
    assert changed.outputs == graph.outputs
    verify(changed)
    assert [node.output.name for node in renumbered(changed).nodes] == ["0", "1", "2"]
    verify(renumbered(changed))


def test_a_replaced_input_changes_the_types_that_follow() -> None:
    graph = chain()
    rewriter = Rewriter(graph)
    narrow = rewriter.one("cast", [graph.inputs[0]], {"dtype": DType.BF16})
    weight = rewriter.one("cast", [graph.weights[0]], {"dtype": DType.BF16})
    rewriter.replace(graph.inputs[0], narrow)
    rewriter.replace(graph.weights[0], weight)
    for node in graph.nodes:
        rewriter.copy(node)
    changed = rewriter.finish()
    verify(changed)
    assert changed.outputs[0].type == TensorType(DType.BF16, (T, 3))


def test_a_replacement_that_does_not_fit_is_an_error() -> None:
    graph = chain()
    rewriter = Rewriter(graph)
    rewriter.replace(
        graph.inputs[0], rewriter.one("cast", [graph.inputs[0]], {"dtype": DType.BF16})
    )
    with pytest.raises(VerifyError, match="different element types"):
        rewriter.copy(graph.nodes[0])


def test_values_not_yet_replayed_are_unknown() -> None:
    graph = chain()
    with pytest.raises(VerifyError, match="not in the new graph yet"):
        Rewriter(graph).copy(graph.nodes[1])


def test_new_inputs_weights_and_outputs() -> None:
    graph = chain()
    rewriter = Rewriter(graph, name="more")
    for node in graph.nodes:
        rewriter.copy(node)
    extra = rewriter.input("extra", F)
    total = rewriter.one("add", [extra, extra])
    scaled = rewriter.one("mul", [total, rewriter.weight("v", TensorType(DType.F32, (3,)))])
    changed = rewriter.finish([graph.outputs[0], scaled])
    verify(changed)
    assert changed.name == "more"
    assert [value.name for value in changed.inputs] == ["x", "extra"]
    assert [value.name for value in changed.weights] == ["w", "v"]


def test_an_input_can_change_its_type() -> None:
    b = GraphBuilder("g")
    x, y = (b.input(name, TensorType(DType.F32, (T, 4))) for name in ("x", "y"))
    graph = b.finish([b.one("neg", [b.one("neg", [x])]), b.one("neg", [y])])
    rewriter = Rewriter(graph, retyped={x: TensorType(DType.BF16, (T, 4))})
    for node in graph.nodes:
        rewriter.copy(node)
    changed = rewriter.finish()
    verify(changed)
    assert [str(value.type) for value in changed.inputs] == ["bf16[T, 4]", "f32[T, 4]"]
    assert [str(value.type) for value in changed.outputs] == ["bf16[T, 4]", "f32[T, 4]"]
    assert changed.inputs[1] is y


def test_dead_nodes_and_weights_go_but_writes_stay() -> None:
    b = GraphBuilder("g")
    kv = b.input("kv", KV)
    k = b.input("k", TensorType(DType.F32, (T, 1, 4)))
    slots = b.input("slots", TensorType(DType.I64, (T,)))
    dead = b.one("mul", [k, b.weight("w", TensorType(DType.F32, (4,)))])
    b.one("neg", [dead])
    double = b.one("add", [k, k])
    b.one("kv_write", [kv, double, double, slots], {"layer": 0})
    graph = without_dead_nodes(b.finish([k]))
    assert [node.op for node in graph.nodes] == ["add", "kv_write"]
    assert graph.weights == ()
    assert [value.name for value in graph.inputs] == ["kv", "k", "slots"]
    assert without_dead_nodes(graph) is graph


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_renumbering_leaves_names_that_are_not_numbers(seed: int) -> None:
    graph = random_graph(seed)
    anew = renumbered(graph)
    verify(anew)
    assert print_graph(renumbered(anew)) == print_graph(anew)
    for old, new in zip(graph.nodes, anew.nodes, strict=True):
        for a, b in zip(old.outputs, new.outputs, strict=True):
            assert a.name == b.name or (a.name.isdigit() and b.name.isdigit())

"""Linear maps of one block that read the same value become one, and nothing else does."""

import pytest

from graphopt.ir.builder import GraphBuilder
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph, SourceLocation
from graphopt.ir.shape import sym
from graphopt.ir.types import TensorType
from graphopt.ledger import Ledger
from graphopt.passes.hoist import hoist
from graphopt.passes.merge_linears import MergeLinears, block_of

from .numbers import applied, operators, reasons, rewritten, worst

X = TensorType(DType.F32, (sym("T"), 8))


def at(module: str) -> SourceLocation:
    return SourceLocation("m.py", 1, module)


def siblings(
    *names: str,
    columns: tuple[int, ...] = (8, 4, 4),
    biases: tuple[bool, ...] = (False, False, False),
    permuted: bool = False,
) -> Graph:
    b = GraphBuilder("g")
    x = b.input("x", X)
    outputs = []
    for name, size, bias in zip(names, columns, biases, strict=False):
        if permuted:
            w = b.one(
                "permute",
                [b.weight(f"{name}.w", TensorType(DType.F32, (8, size)))],
                {"dims": (1, 0)},
            )
        else:
            w = b.weight(f"{name}.w", TensorType(DType.F32, (size, 8)))
        extra = [b.weight(f"{name}.b", TensorType(DType.F32, (size,)))] if bias else []
        outputs.append(b.one("linear", [x, w, *extra], loc=at(name)))
    return b.finish(outputs)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("permuted", [False, True])
def test_queries_keys_and_values_become_one(bias: bool, permuted: bool) -> None:
    before = siblings(
        "l.0.attn.q", "l.0.attn.k", "l.0.attn.v", biases=(bias,) * 3, permuted=permuted
    )
    after, entries = rewritten(before, MergeLinears())
    assert operators(after).count("linear") == 1
    assert operators(after)[-1] == "split"
    assert str(after.nodes[-1].loc) == "m.py:1 in l.0.attn.q-k-v"
    assert applied(entries) == ["merge-linears"]
    assert entries[0].saves_bytes == 2 * 8 * 4
    assert worst(before, after) < 1e-6
    again, _ = rewritten(after, MergeLinears())
    assert again is after


def test_maps_of_two_blocks_stay_apart() -> None:
    before = siblings("l.0.attn.q", "l.0.mlp.up")
    after, entries = rewritten(before, MergeLinears())
    assert after is before
    assert entries == ()


def test_two_groups_that_take_turns() -> None:
    b = GraphBuilder("g")
    x = b.input("x", X)
    y = b.one("neg", [x])
    outputs = []
    for number in range(4):
        w = b.weight(f"w{number}", TensorType(DType.F32, (4, 8)))
        outputs.append(b.one("linear", [(x, y)[number % 2], w]))
    before = b.finish(outputs)
    after, _ = rewritten(before, MergeLinears())
    assert operators(after).count("linear") == 2
    assert worst(before, after) < 1e-6


def test_some_with_a_bias_are_refused() -> None:
    before = siblings("a.q", "a.k", biases=(True, False))
    after, entries = rewritten(before, MergeLinears())
    assert after is before
    assert "some have a bias" in reasons(entries)


def test_a_weight_that_is_used_elsewhere_is_refused() -> None:
    b = GraphBuilder("g")
    x = b.input("x", X)
    shared, own = (b.weight(n, TensorType(DType.F32, (8, 8))) for n in ("shared", "own"))
    first, second = b.one("linear", [x, shared]), b.one("linear", [x, own])
    before = b.finish([first, second, b.one("linear", [first, shared])])
    after, entries = rewritten(before, MergeLinears())
    assert after is before
    assert "used elsewhere too" in reasons(entries)
    assert entries[0].culprits == ("@shared",)


def test_a_weight_that_the_step_computes_is_refused() -> None:
    b = GraphBuilder("g")
    x = b.input("x", TensorType(DType.F32, (8, 8)))
    w = b.weight("w", TensorType(DType.F32, (8, 8)))
    before = b.finish([b.one("linear", [x, w]), b.one("linear", [x, b.one("neg", [x])])])
    after, entries = rewritten(before, MergeLinears())
    assert after is before
    assert "computed in the step" in reasons(entries)


def test_the_block_is_the_module_around() -> None:
    graph = siblings("model.layers.0.mlp.gate_proj")
    assert block_of(graph.nodes[0]) == "model.layers.0.mlp"


def test_maps_of_a_constant_are_constants_and_stay_in_their_order() -> None:
    b = GraphBuilder("g")
    x, first, second = (b.weight(n, TensorType(DType.F32, (8, 8))) for n in ("x", "v", "w"))
    one = b.one("linear", [x, first])
    before = b.finish([one, b.one("linear", [x, b.one("neg", [second])])])
    after, entries = rewritten(before, MergeLinears())
    assert after is before
    assert "their input is a constant" in reasons(entries)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("widened", "it takes more memory than what it is made from"),
        ("tied", "@0 is read as it is too, and would be kept twice"),
        ("permuted", ""),
    ],
)
def test_weights_that_would_be_packed_in_every_step_are_refused(kind: str, reason: str) -> None:
    """Large weights that stay as they are stored: hoist keeps none twice, and none larger."""
    size = 1024
    b = GraphBuilder("g")
    x = b.input("x", TensorType(DType.F32, (sym("T"), size)))
    outputs = []
    for name in "01":
        stored = b.weight(
            name, TensorType(DType.BF16 if kind == "widened" else DType.F32, (size, size))
        )
        if kind == "widened":
            weight = b.one("cast", [stored], {"dtype": DType.F32})
        else:
            weight = b.one("permute", [stored], {"dims": (1, 0)})
        outputs.append(b.one("linear", [x, weight], loc=at(f"layer.{name}")))
        if kind == "tied":
            outputs.append(b.one("matmul", [x, stored]))
    before = b.finish(outputs)
    after, entries = rewritten(before, MergeLinears())
    assert (after is before) is bool(reason)
    assert reason in reasons(entries)
    kept = hoist(after, Ledger()).graph
    assert all(node.op != "concat" for node in kept.nodes)

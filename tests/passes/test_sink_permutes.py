"""Permutes meet their inverse below whatever is in between, and no number changes."""

from __future__ import annotations

import time
from random import Random

import pytest
import torch

from graphopt.ir.builder import GraphBuilder
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph, Value
from graphopt.ir.shape import Dim, sym
from graphopt.ir.types import TensorType
from graphopt.passes.manager import PassContext
from graphopt.passes.remove_identities import RemoveIdentities
from graphopt.passes.sink_permutes import SinkPermutes

from .numbers import operators, outputs, random_values, rewritten

T = sym("T")
HEADS, SIZE = 3, 8


def sunk(graph: Graph) -> Graph:
    """The graph after the pass; every output is the same in every bit."""
    result, _ = rewritten(graph, SinkPermutes())
    for seed, tokens in enumerate((1, 2, 7)):
        inputs, weights = random_values(graph, tokens, seed)
        for old, new in zip(
            outputs(graph, inputs, weights), outputs(result, inputs, weights), strict=True
        ):
            assert old.dtype == new.dtype
            assert torch.equal(old, new)
    return result


def permutes(graph: Graph) -> int:
    return operators(graph).count("permute")


def to_heads(b: GraphBuilder, x: Value) -> Value:
    return b.one("permute", [x], {"dims": (1, 0, 2)})


def heads_input(b: GraphBuilder, name: str = "x", dtype: DType = DType.BF16) -> Value:
    return b.input(name, TensorType(dtype, (T, HEADS, SIZE)))


def test_a_rotation_by_heads_becomes_one_by_tokens() -> None:
    b = GraphBuilder("g")
    x = to_heads(b, heads_input(b))
    table = b.input("table", TensorType(DType.BF16, (T, SIZE)))
    wide = b.one("reshape", [table], {"shape": (1, T, SIZE)})
    first, second = b.node("split", [x], {"sizes": (4, 4), "dim": 2})
    turned = b.one("concat", [b.one("neg", [second]), first], {"dim": 2})
    y = b.one("add", [b.one("mul", [x, wide]), b.one("mul", [turned, wide])])
    graph = sunk(b.finish([to_heads(b, y)]))
    assert permutes(graph) == 0
    assert all(value.type == TensorType(DType.BF16, (T, HEADS, SIZE)) for value in graph.outputs)
    result, _ = rewritten(graph, RemoveIdentities())
    assert operators(result).count("reshape") == 1  # of the table, for both that read it


def test_norms_over_the_last_dimension_do_not_mind() -> None:
    b = GraphBuilder("g")
    x = to_heads(b, heads_input(b))
    weight, bias = (b.weight(name, TensorType(DType.BF16, (SIZE,))) for name in "wb")
    x = b.one("rms_norm", [x, weight], {"eps": 1e-5})
    x = b.one("layer_norm", [x, weight, bias], {"eps": 1e-5})
    assert operators(sunk(b.finish([to_heads(b, x)]))) == ["rms_norm", "layer_norm"]


def test_a_norm_over_a_dimension_that_moved_reads_the_permute() -> None:
    b = GraphBuilder("g")
    x = heads_input(b)
    weight = b.weight("w", TensorType(DType.BF16, (HEADS,)))
    moved = b.one("neg", [b.one("permute", [x], {"dims": (0, 2, 1)})])
    y = b.one("rms_norm", [moved, weight], {"eps": 1e-5})
    graph = sunk(b.finish([b.one("permute", [y], {"dims": (0, 2, 1)})]))
    assert operators(graph) == ["neg", "permute", "rms_norm", "permute"]


def test_a_row_of_one_head_is_repeated_in_the_other_layout() -> None:
    b = GraphBuilder("g")
    x, one = to_heads(b, heads_input(b)), b.input("one", TensorType(DType.BF16, (1, T, 4)))
    repeated = b.one("expand", [one], {"shape": (HEADS, T, 4)})
    graph = sunk(b.finish([to_heads(b, b.one("concat", [x, repeated], {"dim": 2}))]))
    assert operators(graph) == ["reshape", "expand", "concat"]


@pytest.mark.parametrize("shape", [(1, HEADS, T, SIZE), (HEADS, 1, T, SIZE)])
def test_heads_are_repeated_in_the_other_layout(shape: tuple[Dim, ...]) -> None:
    b = GraphBuilder("g")
    x = b.one("reshape", [to_heads(b, heads_input(b))], {"shape": shape})
    wide = tuple(2 if size == 1 else size for size in shape)
    x = b.one("expand", [x], {"shape": wide})
    x = b.one("reshape", [x], {"shape": (2 * HEADS, T, SIZE)})
    graph = sunk(b.finish([to_heads(b, x)]))
    assert operators(graph) == ["reshape", "expand", "reshape"]


def test_a_constant_is_moved_instead() -> None:
    b = GraphBuilder("g")
    x = to_heads(b, heads_input(b))
    scale = b.weight("scale", TensorType(DType.BF16, (HEADS, 1, SIZE)))
    offset = b.weight("offset", TensorType(DType.BF16, (2, 1, 1)))
    y = b.one("mul", [x, scale])
    y = b.one("concat", [y, b.one("expand", [offset], {"shape": (2, T, SIZE)})], {"dim": 0})
    graph = sunk(b.finish([to_heads(b, y)]))
    moved = [node.inputs[0] for node in graph.nodes if node.op == "permute"]
    assert all(graph.producers[value].inputs[0].is_weight for value in moved)


def test_what_it_cannot_pass_reads_the_permute_once() -> None:
    b = GraphBuilder("g")
    x, other = heads_input(b), b.input("other", TensorType(DType.BF16, (HEADS, T, SIZE)))
    y = b.one("neg", [to_heads(b, x)])
    full = b.one("add", [y, other])  # another tensor of the same size, which would have to move
    product = b.one("matmul", [y, b.weight("w", TensorType(DType.BF16, (HEADS, SIZE, 2)))])
    flat = b.one("reshape", [y], {"shape": (HEADS * T, SIZE)})
    graph = sunk(b.finish([full, product, flat]))
    assert operators(graph).count("permute") == 1


def test_permutes_of_weights_and_permutes_before_nothing_else_stay() -> None:
    b = GraphBuilder("g")
    x = heads_input(b)
    w = b.one("permute", [b.weight("w", TensorType(DType.BF16, (5, SIZE)))], {"dims": (1, 0)})
    product = b.one("matmul", [to_heads(b, x), b.one("neg", [w])])
    graph = b.finish([product])
    assert not SinkPermutes()(graph, PassContext()).modified


def test_one_head_needs_no_permute() -> None:
    b = GraphBuilder("g")
    x = b.input("x", TensorType(DType.F32, (T, 1, SIZE)))
    y = b.one("neg", [to_heads(b, x)])
    flat = b.one("reshape", [y], {"shape": (T, SIZE)})
    graph = sunk(b.finish([y, flat]))
    assert permutes(graph) == 0


def test_without_fuel_nothing_moves() -> None:
    b = GraphBuilder("g")
    graph = b.finish([to_heads(b, b.one("neg", [to_heads(b, heads_input(b))]))])
    for fuel, left in ((0, 2), (1, 2), (2, 0)):
        assert permutes(SinkPermutes()(graph, PassContext(fuel=fuel)).graph) == left


class Walk:
    """A random chain of nodes, with permutes in it."""

    def __init__(self, seed: int) -> None:
        self.rng = Random(seed)
        self.b = GraphBuilder("walk")
        sizes = (self.rng.choice((1, 2, 3)), 4, self.rng.choice((T, 2)))
        self.x = self.b.input("x", TensorType(DType.F32, (T, *sizes)))
        self.made: list[Value] = [self.x]

    @property
    def shape(self) -> tuple[object, ...]:
        return self.x.type.shape  # type: ignore[union-attr]

    def one(self, op: str, *more: Value, **attrs: object) -> Value:
        self.x = self.b.one(op, [self.x, *more], attrs)  # type: ignore[arg-type]
        self.made.append(self.x)
        return self.x

    def step(self) -> None:
        rank = len(self.shape)
        dim = self.rng.randrange(rank)
        size = self.shape[dim]
        keep = self.rng.random() < 0.7
        match self.rng.randrange(16):
            case 0 | 1 | 2 | 3:
                self.one("permute", dims=tuple(self.rng.sample(range(rank), rank)))
            case 4:
                self.one("mul", self.operand())
            case 5:
                self.one("amax", dims=(dim,), keepdim=keep or rank < 3)
            case 6:
                self.one("argmax", dim=dim, keepdim=True)
                self.one("cast", dtype=DType.F32)
            case 7 if size == 4:
                self.one("slice", dim=dim, start=1, end=4, step=2)
            case 8 if size == 4:
                low, high = self.b.node("split", [self.x], {"sizes": (1, 3), "dim": dim})
                self.x = low
                self.x = self.b.one("concat", [high, low], {"dim": dim})
            case 9 if rank > 2:
                self.one("select", dim=dim, index=0)
            case 10:
                self.one("roll", shifts=(1,), dims=(dim,))
            case 11:
                self.one("flip", dims=(dim,))
            case 12:
                self.one("repeat_interleave", repeats=2, dim=dim)
            case 13 if size == 4:
                sizes = (*self.shape[:dim], 2, 2, *self.shape[dim + 1 :])
                self.one("reshape", shape=sizes)
            case 14:
                self.one("reshape", shape=(*self.shape[:dim], 1, *self.shape[dim:]))
            case _:
                self.one("softmax", dim=dim)

    def operand(self) -> Value:
        """Something that broadcasts: earlier, new, narrow, or wide."""
        same = [value for value in self.made if value.type == self.x.type]
        if self.rng.random() < 0.5:
            return self.rng.choice(same) if same else self.x
        kept = [1 if self.rng.random() < 0.5 else size for size in self.shape]
        shape = tuple(kept[self.rng.randrange(len(kept)) :])
        return self.b.input(f"in{len(self.made)}", TensorType(DType.F32, shape))  # type: ignore[arg-type]

    def graph(self) -> Graph:
        for _ in range(self.rng.randint(3, 14)):
            self.step()
        return self.b.finish([self.x, self.rng.choice(self.made)])


@pytest.mark.parametrize("seed", range(150))
def test_random_chains_keep_every_bit(seed: int) -> None:
    sunk(Walk(seed).graph())


def test_time_is_linear() -> None:
    def chain(length: int) -> Graph:
        b = GraphBuilder("g")
        x = heads_input(b)
        for _ in range(length):
            x = to_heads(b, b.one("neg", [to_heads(b, x)]))
        return b.finish([x])

    def seconds(graph: Graph) -> float:
        began = time.perf_counter()
        SinkPermutes()(graph, PassContext())
        return time.perf_counter() - began

    short, long = chain(200), chain(1600)
    assert min(seconds(long) for _ in range(3)) < 24 * min(seconds(short) for _ in range(3))

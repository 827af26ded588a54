from __future__ import annotations

import pytest

from graphopt.errors import UnsupportedError
from graphopt.frontend.locality import check_locality
from graphopt.ir.builder import GraphBuilder
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph, Operand, SourceLocation, Value
from graphopt.ir.shape import sym
from graphopt.ir.types import TensorType

T, R = sym("T"), sym("R")
WHERE = SourceLocation("modeling_odd.py", 12, "model.layers.0")


class Draft:
    """A graph over tokens [T, 8] and a table [8, 8]."""

    def __init__(self) -> None:
        self.builder = GraphBuilder("draft")
        self.ids = self.builder.input("token_ids", TensorType(DType.I64, (T,)))
        self.positions = self.builder.input("positions", TensorType(DType.I64, (T,)))
        self.rows = self.builder.input("rows", TensorType(DType.I64, (R,)))
        self.table = self.builder.weight("table", TensorType(DType.F32, (8, 8)))
        self.x = self.one("embed", self.ids, self.table)

    def one(self, op: str, *inputs: Value, types=None, **attrs) -> Value:
        return self.builder.node(op, inputs, attrs, loc=WHERE, types=types)[0]

    def done(self, *outputs: Value) -> Graph:
        return self.builder.finish(outputs)


def turned(draft: Draft) -> Value:
    """The tokens as columns."""
    return draft.one("permute", draft.x, dims=(1, 0))


GOOD = {
    "rows of logits": lambda d: d.one("index_select", d.x, d.rows, dim=0),
    "softmax of a token": lambda d: d.one("softmax", d.x, dim=1),
    "sum of a token": lambda d: d.one("sum", d.x, dims=(1,)),
    "heads": lambda d: d.one("permute", d.one("reshape", d.x, shape=(T, 2, 4)), dims=(1, 0, 2)),
    "heads and back": lambda d: d.one(
        "add",
        d.x,
        d.one("reshape", d.one("reshape", d.x, shape=(T, 4, 2)), shape=(T, 8)),
    ),
    "flat and back": lambda d: d.one(
        "reshape", d.one("exp", d.one("reshape", d.x, shape=(T * 8,))), shape=(T, 8)
    ),
    "choices of a token": lambda d: d.one(
        "gather", d.x, d.builder.node("topk", [d.x], {"k": 2})[1], dim=1
    ),
    "positions in a table": lambda d: d.one("embed", d.positions, d.table),
    "copies of all": lambda d: d.one(
        "reshape", d.one("expand", d.x, shape=(3, T, 8)), shape=(3 * T, 8)
    ),
    "each twice": lambda d: d.one("repeat_interleave", d.x, repeats=2, dim=0),
    "uniform": lambda d: d.one("add", d.x, d.one("full", shape=(T, 1), dtype=DType.F32, value=1.0)),
    "unknown but pointwise": lambda d: d.one(
        "aten.log1p.default", d.x, types=[d.x.type], args=(Operand(0),)
    ),
    "experts in a batch": lambda d: d.one(
        "matmul",
        d.one("expand", d.one("reshape", d.x, shape=(1, T, 8)), shape=(2, T, 8)),
        d.builder.weight("each", TensorType(DType.F32, (2, 8, 3))),
    ),
}
BAD = {
    "sum over tokens": lambda d: d.one("sum", d.x, dims=(0,)),
    "mean of everything": lambda d: d.one("mean", d.x, dims=(0, 1), keepdim=True),
    "running sum": lambda d: d.one("cumsum", d.x, dim=0),
    "sort": lambda d: d.one("sort", d.x, dim=0),
    "softmax over tokens": lambda d: d.one("softmax", d.x, dim=0),
    "scores": lambda d: d.one("matmul", d.x, d.one("permute", d.x, dims=(1, 0))),
    "sum in a product": lambda d: d.one("matmul", d.one("permute", d.x, dims=(1, 0)), d.x),
    "first token": lambda d: d.one("select", d.x, dim=0, index=0),
    "all but the first": lambda d: d.one("slice", d.x, dim=0, start=1, end=T),
    "place in the batch": lambda d: d.one("embed", d.one("iota", end=T), d.table),
    "shifted": lambda d: d.one("roll", d.x, shifts=(1,), dims=(0,)),
    "turned": lambda d: d.one("flip", d.x, dims=(0,)),
    "another tokens row": lambda d: d.one("index_select", d.x, d.positions, dim=0),
    "rows by computed index": lambda d: d.one(
        "index_select", d.x, d.one("add", d.rows, scalar=1), dim=0
    ),
    "mixed up by reshape": lambda d: d.one(
        "add", d.x, d.one("reshape", d.one("permute", d.x, dims=(1, 0)), shape=(T, 8))
    ),
    "joined": lambda d: d.one("concat", d.x, d.x, dim=0),
    "triangle": lambda d: d.one("tril", d.x),
    "padded": lambda d: d.one("pad_constant", d.x, pads=(0, 0, 1, 0), value=0.0),
    "normed over tokens": lambda d: d.one(
        "layer_norm",
        d.one("permute", d.x, dims=(1, 0)),
        eps=1e-5,
        axes=1,
        has_weight=False,
        has_bias=False,
    ),
    "unknown": lambda d: d.one(
        "aten.logcumsumexp.default", d.x, types=[d.x.type], args=(Operand(0), 0)
    ),
    "how many tokens, as a factor": lambda d: d.one("mul", d.x, scalar=T),
    "how many tokens, as a value": lambda d: d.one(
        "add", d.x, d.one("full", shape=(), dtype=DType.F32, value=T)
    ),
    "a range after the tokens": lambda d: d.one(
        "add", d.x, d.one("iota", start=T, end=T + 8, dtype=DType.F32)
    ),
    "how many rows, for PyTorch": lambda d: d.one(
        "aten.fmod.Scalar", d.x, types=[d.x.type], args=(Operand(0), R)
    ),
    "slice of a table by tokens": lambda d: d.one(
        "add",
        d.x,
        d.one(
            "slice", d.builder.weight("long", TensorType(DType.F32, (99, 8))), dim=0, start=0, end=T
        ),
    ),
}


@pytest.mark.parametrize("name", GOOD)
def test_what_treats_each_token_alone_passes(name: str) -> None:
    draft = Draft()
    check_locality(draft.done(GOOD[name](draft)))


@pytest.mark.parametrize("name", BAD)
def test_what_mixes_tokens_is_refused_with_its_place(name: str) -> None:
    draft = Draft()
    graph = draft.done(BAD[name](draft))
    with pytest.raises(UnsupportedError) as error:
        check_locality(graph)
    assert error.value.where == "modeling_odd.py:12 in model.layers.0"
    assert "see each other" in error.value.what

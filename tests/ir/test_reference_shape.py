from __future__ import annotations

import pytest
import torch

from graphopt.errors import IRError
from graphopt.ir.builder import GraphBuilder
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Attr
from graphopt.ir.reference import prepare
from graphopt.ir.shape import sym
from graphopt.ir.types import TensorType

from .run import run

T = sym("T")
X = torch.arange(24.0).view(2, 3, 4)


def test_moving() -> None:
    assert torch.equal(run("reshape", X, shape=(6, -1)), X.reshape(6, 4))
    assert torch.equal(run("permute", X, dims=(2, 0, 1)), X.permute(2, 0, 1))
    assert torch.equal(run("expand", X[:, :1], shape=(5, 2, 3, 4)), X[:, :1].expand(5, 2, 3, 4))
    assert torch.equal(run("slice", X, dim=2, start=1, end=4, step=2), X[..., 1:4:2])
    assert torch.equal(run("slice", X, dim=1, start=1), X[:, 1:])
    assert torch.equal(run("select", X, dim=1, index=-1), X[:, -1])
    assert torch.equal(run("concat", X, X + 1, dim=1), torch.cat((X, X + 1), 1))
    first, second = run("split", X, sizes=(1, 2), dim=1)
    assert torch.equal(first, X[:, :1])
    assert torch.equal(second, X[:, 1:])
    padded = torch.nn.functional.pad(X, (1, 2, 0, 3), value=7)
    assert torch.equal(run("pad_constant", X, pads=(1, 2, 0, 3), value=7), padded)
    assert torch.equal(run("flip", X, dims=(0, 2)), X.flip(0, 2))
    assert torch.equal(run("roll", X, shifts=(1, -1), dims=(0, 2)), X.roll((1, -1), (0, 2)))
    assert torch.equal(run("roll", X, shifts=(), dims=()), X)
    assert torch.equal(run("repeat_interleave", X, repeats=2, dim=1), X.repeat_interleave(2, 1))
    assert torch.equal(run("tril", X, diagonal=-1), X.tril(-1))
    assert torch.equal(run("triu", X, diagonal=T - 1, env={"T": 2}), X.triu(1))


def test_creating() -> None:
    full = run("full", shape=(T, 2), dtype=DType.BF16, value=1.5, env={"T": 3})
    assert torch.equal(full, torch.full((3, 2), 1.5, dtype=torch.bfloat16))
    assert torch.equal(run("iota", start=T, end=0, step=-2, env={"T": 5}), torch.tensor([5, 3, 1]))
    fractions = run("iota", start=0.0, end=1.0, step=0.25, dtype=DType.F64)
    assert fractions.tolist() == [0.0, 0.25, 0.5, 0.75]


def test_indexing() -> None:
    index = torch.tensor([[[2, 0]], [[1, 1]]])
    assert torch.equal(run("gather", X[:, :1], index, dim=2), X[:, :1].gather(2, index))
    source = torch.full((2, 1, 2), -1.0)
    assert torch.equal(run("scatter", X, index, source, dim=2), X.scatter(2, index, source))
    rows = torch.tensor([2, 0, 0])
    assert torch.equal(run("index_select", X, rows, dim=1), X[:, rows])
    assert torch.equal(run("embed", rows, X[0]), X[0][rows])
    table = X[0].bfloat16()
    scaled = (table[rows].double() * 8.3).bfloat16()
    assert torch.equal(run("embed", rows, table, scale=8.3), scaled)
    assert run("one_hot", rows, classes=3).tolist() == [[0, 0, 1], [1, 0, 0], [1, 0, 0]]


@pytest.mark.parametrize(
    ("op", "attrs"),
    [
        ("slice", {"dim": 0, "start": 0, "end": 4}),
        ("slice", {"dim": 0, "start": 3, "end": T}),
        ("select", {"dim": 0, "index": 3}),
        ("select", {"dim": 0, "index": T - 5}),
    ],
)
def test_positions_that_turn_out_to_lie_outside(op: str, attrs: dict[str, Attr]) -> None:
    b = GraphBuilder("g")
    x = b.input("x", TensorType(DType.F32, (T, 2)))
    b.node(op, [x], attrs)
    step = prepare(b.nodes[0])
    step([torch.ones(6, 2)], {"T": 6})
    with pytest.raises(IRError, match="not inside its tensor"):
        step([torch.ones(2, 2)], {"T": 2})

from __future__ import annotations

from collections.abc import Callable

import pytest

from graphopt.frontend.emitter import Emitter
from graphopt.frontend.indices import counted_from_front, never_negative
from graphopt.ir.builder import GraphBuilder
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Value
from graphopt.ir.shape import sym
from graphopt.ir.types import TensorType

T = sym("T")


class Draft:
    """Positions, hidden states, and weights whose values are known or not."""

    def __init__(self) -> None:
        self.emit = Emitter(GraphBuilder("draft"))
        build = self.emit.builder
        self.p = build.input("positions", TensorType(DType.I64, (T,)))
        self.x = build.input("x", TensorType(DType.F32, (T, 8)))
        self.odd = build.weight("odd", TensorType(DType.I64, (3,)))
        self.low = build.weight("low", TensorType(DType.I64, (2,)))
        self.high = build.weight("high", TensorType(DType.I64, (2,)))
        self.emit.known[self.low], self.emit.known[self.high] = [-1, 0], [0, 7]

    def one(self, op: str, *inputs: Value, **attrs) -> Value:
        return self.emit.one(op, inputs, attrs)


NEVER: dict[str, Callable[[Draft], Value]] = {
    "positions": lambda d: d.p,
    "known": lambda d: d.high,
    "reshaped": lambda d: d.one("reshape", d.p, shape=(T, 1)),
    "shifted up": lambda d: d.one("add", d.p, scalar=2),
    "sum of two": lambda d: d.one("add", d.p, d.p),
    "best entries": lambda d: d.emit.node("topk", [d.x], {"k": 2})[1],
    "best entry": lambda d: d.one("argmax", d.x, dim=1),
    "order": lambda d: d.emit.node("sort", [d.x], {"dim": 1})[1],
    "sorted positions": lambda d: d.emit.node("sort", [d.p], {"dim": 0})[0],
    "range": lambda d: d.one("iota", end=8),
    "remainder": lambda d: d.one("remainder", d.odd, scalar=3),
    "bounded": lambda d: d.one("clamp", d.odd, min=0, max=None),
    "wider": lambda d: d.one("cast", d.one("cast", d.x, dtype=DType.BOOL), dtype=DType.I64),
    "constant": lambda d: d.one("full", shape=(2,), dtype=DType.I64, value=3),
    "bins": lambda d: d.one("floor_div", d.p, scalar=4),
}
PERHAPS: dict[str, Callable[[Draft], Value]] = {
    "unknown weight": lambda d: d.odd,
    "known weight": lambda d: d.low,
    "difference": lambda d: d.one("sub", d.p, scalar=1),
    "shifted down": lambda d: d.one("add", d.p, scalar=-1),
    "sum with unknown": lambda d: d.one("concat", d.p, d.odd, dim=0),
    "values of the best": lambda d: d.emit.node("topk", [d.x], {"k": 2})[0],
    "sorted unknown": lambda d: d.emit.node("sort", [d.odd], {"dim": 0})[0],
    "range from below": lambda d: d.one("iota", start=-2, end=2),
    "range downwards": lambda d: d.one("iota", start=3, end=-1, step=-1),
    "negative remainder": lambda d: d.one("remainder", d.p, scalar=-3),
    "bounded from above": lambda d: d.one("clamp", d.odd, min=None, max=3),
    "rounded": lambda d: d.one("cast", d.x, dtype=DType.I64),
    "narrower": lambda d: d.one("cast", d.p, dtype=DType.I8),
    "negative bins": lambda d: d.one("floor_div", d.p, scalar=-4),
    "unknown bins": lambda d: d.one("floor_div", d.odd, scalar=4),
}


@pytest.mark.parametrize("name", NEVER)
def test_what_cannot_be_negative_stays_as_it_is(name: str) -> None:
    draft = Draft()
    index = NEVER[name](draft)
    assert never_negative(draft.emit, index)
    assert counted_from_front(draft.emit, index, 5) is index


@pytest.mark.parametrize("name", PERHAPS)
def test_what_may_be_negative_is_counted_from_the_front(name: str) -> None:
    draft = Draft()
    index = PERHAPS[name](draft)
    assert not never_negative(draft.emit, index)
    node = draft.emit.made_by(counted_from_front(draft.emit, index, 5))
    assert node is not None
    assert (node.op, node.inputs, node.attrs["scalar"]) == ("remainder", (index,), 5)

"""Rotary embedding in the ways in which models spell it, right and wrong."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

from graphopt.ir.builder import GraphBuilder
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph, Value
from graphopt.ir.shape import Dim, sym
from graphopt.ir.types import TensorType

T = sym("T")
HEADS, PAIRS = 3, 4
FORMS = ("wide halves", "wide pairs", "halves", "views of halves", "complex", "sorted pairs")
INTERLEAVED = ("wide pairs", "complex")
LAYOUTS = ("tokens", "heads", "one head", "no head")


def shape_of(value: Value) -> tuple[Dim, ...]:
    assert isinstance(value.type, TensorType)
    return value.type.shape


@dataclass
class Spelling:
    """Spells a rotation out.

    Attributes:
        form: one of ``FORMS``.
        layout: where tokens are.
        dtype: of the heads.
        table: element type of the tables.
        computed: element type of products; the heads are cast to it, and the result back.
        size: size of a head.
        flipped: whether tables are the left factors.
        wrong: what is wrong with it, if anything.
    """

    form: str = "wide halves"
    layout: str = "tokens"
    dtype: DType = DType.F32
    table: DType = DType.F32
    computed: DType | None = None
    size: int = 2 * PAIRS
    start: int = 0
    flipped: bool = False
    wrong: str = ""
    b: GraphBuilder = field(default_factory=lambda: GraphBuilder("g"))

    def graph(self) -> Graph:
        """The whole: input x, and angles of which the tables are made."""
        x = self.b.input("x", TensorType(self.dtype, self._shape(self.size)))
        angles = self.b.input("angles", TensorType(DType.F32, (T, PAIRS)))
        cos, sin = self.tables(angles)
        return self.b.finish([self.rotated(x, cos, sin)])

    def tables(self, angles: Value) -> tuple[Value, Value]:
        """Cosines and sines that broadcast with the heads."""
        wide = self._doubled(angles)
        made = []
        for function in ("cos", "sin"):
            value = self.b.one(function, [wide])
            value = self.b.one("mul", [value], {"scalar": 1.25})
            value = self._cast(value, self.table)
            tokens = (1, T) if self.layout in ("heads", "one head") else (T, 1)
            if self.layout != "no head":
                value = self.b.one("reshape", [value], {"shape": (*tokens, shape_of(value)[-1])})
            made.append(self._cast(value, self.computed or self.dtype))
        return made[0], made[1]

    def rotated(self, x: Value, cos: Value, sin: Value) -> Value:
        if self.wrong == "cosine and sine exchanged":
            cos, sin = sin, cos
        if self.wrong == "one table twice":
            sin = cos
        if self.size == 2 * PAIRS:
            return self._cast(self._turned(self._cast(x, self.computed), cos, sin), self.dtype)
        bounds = (0, self.start, self.start + 2 * PAIRS, self.size)
        parts = [self._slice(x, low, high) for low, high in pairwise(bounds)]
        parts = [part for part in parts if shape_of(part)[-1] != 0]
        inside = 1 if self.start else 0
        parts = [self._cast(part, self.computed) for part in parts]
        parts[inside] = self._turned(parts[inside], cos, sin)
        if self.wrong == "parts exchanged":
            parts.reverse()
        return self._cast(self._concat(parts), self.dtype)

    def _turned(self, x: Value, cos: Value, sin: Value) -> Value:
        first, second = self._halves(x)
        if self.wrong == "halves exchanged":
            first, second = second, first
        if self.form.startswith("wide"):
            minus = "neg" if self.wrong != "no sign" else "abs"
            if self.wrong == "sign in the other half":
                turned = self._joined(second, self.b.one("neg", [first]))
            else:
                turned = self._joined(self.b.one(minus, [second]), first)
            return self._pair("add", (turned, sin), (x, cos))
        left, right = ("add", "sub") if self.wrong == "sign in the other half" else ("sub", "add")
        if self.wrong == "no sign":
            left = "add"
        low = self._pair(left, (first, cos), (second, sin))
        high = self._pair(right, (second, cos), (first, sin))
        if self.wrong == "a reflection":
            low = self._pair("add", (first, cos), (second, sin))
            high = self._pair("sub", (first, sin), (second, cos))
        return self._joined(low, high)

    def _pair(self, op: str, left: tuple[Value, Value], right: tuple[Value, Value]) -> Value:
        order = -1 if self.flipped else 1
        return self.b.one(op, [self.b.one("mul", list(pair[::order])) for pair in (left, right)])

    def _halves(self, x: Value) -> tuple[Value, Value]:
        if self.form in ("wide pairs", "sorted pairs"):
            return self._slice(x, 0, 2 * PAIRS, 2), self._slice(x, 1, 2 * PAIRS, 2)
        if self.form == "wide halves":
            middle = PAIRS - (self.wrong == "unequal halves")
            return self._slice(x, 0, middle), self._slice(x, middle, 2 * PAIRS)
        axis = len(shape_of(x)) - 1
        if self.form == "halves":
            low, high = self.b.node("split", [x], {"sizes": (PAIRS, PAIRS), "dim": axis})
            return low, high
        sizes = (PAIRS, 2) if self.form == "complex" else (2, PAIRS)
        view = self.b.one("reshape", [x], {"shape": (*shape_of(x)[:-1], *sizes)})
        dim = axis + 1 if self.form == "complex" else axis
        low, high = (self.b.one("select", [view], {"dim": dim, "index": i}) for i in (0, 1))
        return low, high

    def _joined(self, left: Value, right: Value) -> Value:
        if self.form not in INTERLEAVED or self.wrong == "joined as halves":
            return self._concat([left, right])
        columns = [
            self.b.one("reshape", [part], {"shape": (*shape_of(part), 1)}) for part in (left, right)
        ]
        both = self._concat(columns)
        return self.b.one("reshape", [both], {"shape": (*shape_of(left)[:-1], 2 * PAIRS)})

    def _doubled(self, x: Value) -> Value:
        if not self.form.startswith("wide"):
            return x
        if self.wrong == "a table that is not doubled":
            return self.b.input("more angles", TensorType(DType.F32, (T, 2 * PAIRS)))
        if (self.form == "wide pairs") is not (self.wrong == "a table doubled the other way"):
            return self.b.one("repeat_interleave", [x], {"repeats": 2, "dim": 1})
        return self.b.one("concat", [x, x], {"dim": 1})

    def _slice(self, x: Value, start: int, end: int, step: int = 1) -> Value:
        dim = len(shape_of(x)) - 1
        return self.b.one("slice", [x], {"dim": dim, "start": start, "end": end, "step": step})

    def _concat(self, parts: list[Value]) -> Value:
        return self.b.one("concat", parts, {"dim": len(shape_of(parts[0])) - 1})

    def _cast(self, x: Value, dtype: DType | None) -> Value:
        if dtype is None or x.type.dtype is dtype:  # type: ignore[union-attr]
            return x
        return self.b.one("cast", [x], {"dtype": dtype})

    def _shape(self, size: int) -> tuple[Dim, ...]:
        return {
            "tokens": (T, HEADS, size),
            "heads": (HEADS, T, size),
            "one head": (1, T, size),
            "no head": (T, size),
        }[self.layout]

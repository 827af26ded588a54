"""What random graphs are made of: nodes, weights, moves, and a pool of values to read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from random import Random

from graphopt.ir.builder import GraphBuilder
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Attr, SourceLocation, Value
from graphopt.ir.shape import Dim, sym
from graphopt.ir.types import TensorType
from graphopt.passes.typed import shape_of

T, R = sym("T"), sym("R")
NARROW = (DType.BF16, DType.F16)
VOCABULARY = 11
ROWS: tuple[Dim, ...] = (T, T, T, T, 1, 3, 7, 8)


class Parts:
    """A graph that grows; ``pool`` holds the values that may be read."""

    def __init__(self, rng: Random) -> None:
        self.rng = rng
        self.builder = GraphBuilder("random")
        self.rows: Dim = rng.choice(ROWS)
        self.hidden = rng.choice((4, 8, 8, 8, 12))
        self.dtype = rng.choice((DType.F32, DType.BF16, DType.BF16, DType.F16))
        self.pool: list[Value] = []
        self.weights: list[Value] = []
        self.known: list[Value] = []  # weights that may be used again
        self.tables: dict[tuple[str, int, bool], tuple[Value, Value]] = {}
        self.module = "model"
        self.line = 0
        self.ids = self.builder.input("token_ids", TensorType(DType.I64, (self.rows,)))
        self.positions = self.builder.input("positions", TensorType(DType.I64, (self.rows,)))
        self.wanted = self.builder.input("rows", TensorType(DType.I64, (R,)))
        self.main = self._embedded()

    def start_layer(self, x: Value) -> None:
        """From here on nothing but x is read of what is there."""
        self.main, self.pool, self.known = x, [x], []
        self.tables = {}

    @contextmanager
    def inside(self, module: str) -> Iterator[None]:
        """Nodes that are made in here come from this module."""
        outer, self.module = self.module, module
        yield
        self.module = outer

    def nodes(self, op: str, *inputs: Value, **attrs: Attr) -> tuple[Value, ...]:
        """The outputs of a new node."""
        self.line += 1
        loc = SourceLocation("modeling.py", self.line, self.module) if self.module else None
        return self.builder.node(op, inputs, attrs, loc=loc)

    def make(self, op: str, *inputs: Value, **attrs: Attr) -> Value:
        """The output of a new node that has one."""
        return self.nodes(op, *inputs, **attrs)[0]

    def weight(self, *shape: Dim, dtype: DType | None = None) -> Value:
        """A new weight, now and then one of the same type that there is."""
        type_ = TensorType(dtype or self.dtype, shape)
        known = [v for v in self.known if v.type == type_]
        if known and self.maybe(0.1):
            return self.rng.choice(known)
        name = f"{self.module}.w{len(self.weights)}.weight"
        self.weights.append(self.builder.weight(name, type_))
        self.known.append(self.weights[-1])
        return self.weights[-1]

    def maybe(self, chance: float = 0.5) -> bool:
        return self.rng.random() < chance

    def is_main(self, value: Value) -> bool:
        """Whether a value has the model's own element type."""
        return isinstance(value.type, TensorType) and value.type.dtype is self.dtype

    def floats(self, least: int = 0) -> list[Value]:
        """Values of the model's own element type with at least so many dimensions."""
        return [v for v in self.pool if self.is_main(v) and len(shape_of(v)) >= least]

    def any(self, least: int = 0) -> Value:
        """A value to go on with, rather one of the latest."""
        return self.one_of(self.floats(least))

    def wide(self) -> Value:
        """A value with rows of a known size, which work along rows needs."""
        return self.one_of([v for v in self.floats(1) if isinstance(shape_of(v)[-1], int)])

    def one_of(self, found: Sequence[Value]) -> Value:
        return self.rng.choice(found[-4:] if self.maybe(0.7) else found)

    def tokens(self) -> Value:
        """A value [rows, hidden]."""
        found = [v for v in self.floats() if shape_of(v) == (self.rows, self.hidden)]
        return self.rng.choice(found[-3:] if self.maybe(0.7) else found)

    def keep(self, *values: Value) -> None:
        """What is made from here on may read these."""
        self.pool.extend(values)

    def like(self, x: Value) -> list[Value]:
        """Values of x's type."""
        return [v for v in self.pool if v.type == x.type]

    def cast(self, x: Value, dtype: DType) -> Value:
        return self.make("cast", x, dtype=dtype)

    def dtype_of(self, x: Value) -> DType:
        return x.type.dtype if isinstance(x.type, TensorType) else self.dtype

    def _embedded(self) -> Value:
        if self.maybe(0.3):
            x = self.builder.input("x", TensorType(self.dtype, (self.rows, self.hidden)))
            return x
        x = self.make("embed", self.ids, self.weight(VOCABULARY, self.hidden))
        if self.maybe(0.4):
            x = self.make("mul", x, scalar=self.rng.choice((8.0, 2.8284271247461903)))
        return x

    def matrix(self, out: int, into: int) -> Value:
        """A weight [out, into]: one that is stored so, or made from others."""
        kind = self.rng.randrange(12)
        if kind == 0:
            return self.make("permute", self.weight(into, out), dims=(1, 0))
        if kind == 1 and out > 1:
            first = self.rng.randrange(1, out)
            parts = self.weight(first, into), self.weight(out - first, into)
            return self.make("concat", *parts, dim=0)
        if kind == 2:
            start = self.rng.randrange(3)
            large = self.weight(out + 3, into)
            return self.make("slice", large, dim=0, start=start, end=start + out)
        if kind == 3:
            other = self.rng.choice([d for d in (DType.F32, *NARROW) if d is not self.dtype])
            return self.cast(self.weight(out, into, dtype=other), self.dtype)
        if kind == 4:
            return self.make("mul", self.weight(out, into), self.weight(out, 1))
        if kind == 5:
            factor = self.rng.choice((0.5, 2.0, 0.125, 0.3))
            return self.make("mul", self.weight(out, into), scalar=factor)
        if kind == 6:
            return self.nodes("split", self.weight(out + 2, into), sizes=(out, 2), dim=0)[0]
        if kind == 7:
            return self.make("select", self.weight(2, out, into), dim=0, index=1)
        return self.weight(out, into)

    def vector(self, size: int) -> Value:
        """A weight [size], or something made of weights alone."""
        if self.maybe(0.2):
            return self.make("add", self.weight(size), self.weight(1))
        if self.maybe(0.1):
            return self.make("reshape", self.weight(1, size), shape=(size,))
        return self.weight(size)

    def step(self, x: Value) -> Value:
        """One pointwise operator on x and what fits it."""
        shape = shape_of(x)
        kind = self.rng.randrange(9)
        if kind <= 1:
            op = self.rng.choice(("neg", "abs", "tanh", "sigmoid", "relu", "cos", "sin", "silu"))
            return self.make(op, x)
        if kind == 2:
            op, reverse = self.rng.choice(
                (("add", False), ("mul", False), ("sub", True), ("sub", False))
            )
            number = self.rng.choice((0.5, 2.0, -1.0, 0.3, 0.0))
            return self.make(op, x, scalar=number, reverse=reverse)
        op = self.rng.choice(("add", "mul", "sub", "maximum", "minimum"))
        if kind == 3 and self.like(x):
            pair = [x, self.rng.choice(self.like(x))]
            self.rng.shuffle(pair)
            return self.make(op, *pair)
        if kind == 4 and shape and isinstance(shape[-1], int):
            forms = ((shape[-1],), (1, shape[-1]), (1,), ())
            return self.make(op, x, self.weight(*self.rng.choice(forms)))
        if kind == 5 and len(shape) >= 1:
            summary = self.rng.choice(("mean", "amax", "sum"))
            return self.make(op, x, self.make(summary, x, dims=(len(shape) - 1,), keepdim=True))
        if kind == 6:
            mask = self.make("gt", x, scalar=0.1)
            return self.make("where", mask, x, self.make("mul", x, scalar=0.5))
        if kind == 7:
            other = self.rng.choice((DType.F32, *NARROW))
            return self.cast(self.make("mul", self.cast(x, other), scalar=0.7), self.dtype_of(x))
        return self.make("clamp", x, min=-2.0, max=2.0)

    def moved(self, x: Value) -> Value:
        """x moved in some way."""
        shape = shape_of(x)
        axis = self.rng.randrange(len(shape)) if shape else 0
        size = shape[axis] if shape else 1
        kind = self.rng.randrange(9)
        if kind == 0 and isinstance(size, int) and size % 2 == 0:
            return self.make("reshape", x, shape=(*shape[:axis], 2, size // 2, *shape[axis + 1 :]))
        if kind == 1 and len(shape) > 1:
            axis = self.rng.randrange(len(shape) - 1)
            both = (*shape[:axis], shape[axis] * shape[axis + 1], *shape[axis + 2 :])
            return self.make("reshape", x, shape=both)
        if kind <= 3:
            dims = list(range(len(shape)))
            self.rng.shuffle(dims)
            return self.make("permute", x, dims=tuple(dims))
        if kind == 4 and isinstance(size, int) and size > 1:
            cut = self.rng.randrange(1, size)
            parts = self.nodes("split", x, sizes=(cut, size - cut), dim=axis)
            self.keep(parts[0])
            return parts[1]
        if kind == 5 and isinstance(size, int) and size > 0 and len(shape) > 1:
            return self.make("select", x, dim=axis, index=self.rng.randrange(size))
        if kind == 6 and shape:
            others = [v for v in self.like(x)] or [x]
            return self.make("concat", x, self.rng.choice(others), dim=axis)
        if kind == 7:
            return self.make("expand", x, shape=(self.rng.choice((1, 2)), *shape))
        if isinstance(size, int) and size > 1:
            start = self.rng.randrange(size)
            step = self.rng.choice((1, 1, 2))
            return self.make("slice", x, dim=axis, start=start, end=size, step=step)
        return self.make("reshape", x, shape=(*shape, 1))

    def halves(self, x: Value, pairs: bool) -> tuple[Value, Value]:
        """The halves of x's last dimension, or its even and odd elements."""
        size, axis = whole(shape_of(x)[-1]), len(shape_of(x)) - 1
        if pairs:
            even = self.make("slice", x, dim=axis, start=0, end=size, step=2)
            return even, self.make("slice", x, dim=axis, start=1, end=size, step=2)
        if self.maybe():
            first, second = self.nodes("split", x, sizes=(size // 2, size // 2), dim=axis)
            return first, second
        first = self.make("slice", x, dim=axis, start=0, end=size // 2)
        return first, self.make("slice", x, dim=axis, start=size // 2, end=size)

    def joined(self, a: Value, b: Value, pairs: bool) -> Value:
        """Two halves in one, element by element or one after the other."""
        shape = shape_of(a)
        if not pairs:
            return self.make("concat", a, b, dim=len(shape) - 1)
        parts = [self.make("reshape", one, shape=(*shape, 1)) for one in (a, b)]
        both = self.make("concat", *parts, dim=len(shape))
        return self.make("reshape", both, shape=(*shape[:-1], 2 * whole(shape[-1])))


def whole(size: Dim) -> int:
    """A size that is a number; 1 for others."""
    return size if isinstance(size, int) else 1

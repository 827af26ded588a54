"""Random graphs that look like models: what a pass should see, what it must not take for it.

``random_graph(seed)`` gives a well-formed graph of a few blocks: norms, gates, GELUs, soft caps and
rotations, as operators and written out, each written out rightly or with one thing changed that
makes it another function; linear maps side by side, with and without bias, on weights that are made
of others; attention over paged memory; whatever else moves, reduces and indexes. Everything reads
from one pool of values, so what is fused is also read elsewhere, returned, or not read at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from random import Random
from types import MappingProxyType

from graphopt.ir.dtype import DType
from graphopt.ir.graph import Attr, Graph, Operand, SourceLocation, Value
from graphopt.ir.shape import Dim, sym
from graphopt.ir.types import LayerState, StateType, TensorType
from graphopt.passes.typed import shape_of

from .random_parts import VOCABULARY, whole
from .random_spellings import Spellings

S, P = sym("S"), sym("P")
HEADS, SIZE = 2, 4
# Results that jump where rounding moves their operand, so that few numbers can be compared.
JUMPS = frozenset(
    {"topk", "sort", "argmax", "round", "floor", "ceil", "sign", "gt", "lt", "ge", "eq", "scatter"}
)


def random_graph(seed: int, *, blocks: int = 6) -> Graph:
    """A graph that depends on nothing but its arguments."""
    model = _Model(Random(seed))
    for number in range(model.rng.randint(1, blocks)):
        with model.inside(f"model.layers.{number}"):
            model.block()
    return model.finish()


def random_layers(seed: int, layers: int) -> Graph:
    """A graph of equal layers, which are random."""
    model = _Model(Random(seed), layers=layers)
    x, state = model.main, model.rng.getstate()
    for number in range(layers):
        model.rng.setstate(state)
        model.start_layer(x)
        with model.inside(f"model.layers.{number}"):
            for _ in range(6):
                model.block()
        x = model.make("add", x, model.tokens())
    return model.builder.finish([model.make("mul", x, scalar=0.5)])


class _Model(Spellings):
    """A graph that grows by one block after the other."""

    def __init__(self, rng: Random, *, layers: int = 0) -> None:
        super().__init__(rng)
        self.state: Value | None = None
        self.layers = layers or rng.choice((1, 2))  # of the state; one may be written again
        self.written = 0
        self.keep(self.main)

    def block(self) -> None:
        """One thing that models have."""
        chosen = self.rng.choices(tuple(BLOCKS), tuple(BLOCKS.values()))[0]
        with self.inside(f"{self.module}.{chosen.__name__}") if self.maybe(0.8) else _nowhere():
            chosen(self)

    def finish(self) -> Graph:
        """The graph: one output that is computed, or several, or odd ones."""
        given = (
            {self.main, *self.weights}
            if self.builder.maker(self.main) is None
            else set(self.weights)
        )
        computed = [v for v in self.pool if v not in given]
        computed = computed or [self.make("tanh", self.main)]
        if self.maybe(0.7):
            last = self.rng.choice(computed[-3:])
            return self.builder.finish([self.head(last) if self.maybe() else last])
        odd = [*computed, *self.pool, self.ids, *self.weights]
        count = self.rng.randint(1, 4)
        return self.builder.finish([self.rng.choice(odd) for _ in range(count)])

    def head(self, x: Value) -> Value:
        """Logits of the wanted rows, if there are rows."""
        shape = shape_of(x)
        if shape[:1] != (self.rows,) or len(shape) != 2 or not self.is_main(x):
            return self.make("neg", x)
        if self.maybe(0.8):
            x = self.normed(x) if whole(shape[1]) > 1 else x
            x = self.make("index_select", x, self.wanted, dim=0)
        x = self.make("linear", x, self.matrix(VOCABULARY, whole(shape[1])))
        return self.capped(x) if self.maybe(0.3) else x

    def linears(self) -> None:
        """One to four maps of the same input, in one module or several."""
        x = self.wide()
        into = whole(shape_of(x)[-1])
        outs = self.rng.choice(((self.hidden,), (8, 4), (8, 8, 8), (HEADS * SIZE, 4, 4, 6)))
        made = []
        bias = self.rng.random()
        for number, out in enumerate(outs):
            module = f"{self.module}.p{number}" if self.maybe(0.9) else f"elsewhere.{number}"
            with self.inside(module):
                more = [self.vector(out)] if self.maybe(bias) else []
                y = self.make("linear", x, self.matrix(out, into), *more)
                if self.maybe(0.3):
                    y = self.make("add", y, self.vector(out))
                if self.maybe(0.2):
                    y = self.make("mul", y, scalar=self.rng.choice((0.25, 3.0, 2.0, -1.0)))
            made.append(y)
        self.keep(*made)
        if shape_of(x) == (self.rows, self.hidden) and outs[0] == self.hidden and self.maybe():
            self.keep(self.make("add", made[0], x))

    def norm(self) -> None:
        """A norm over the last dimension, or something that looks like one."""
        x = self.wide()
        self.keep(self.normed(x if whole(shape_of(x)[-1]) > 1 else self.tokens()))

    def activation(self) -> None:
        """An activation, alone or as a gate."""
        x = self.wide()
        y = self.activated(x)
        kind = self.rng.randrange(4)
        if kind == 0:
            y = self.make("mul", y, self.rng.choice(self.like(x)))
        elif kind == 1 and len(shape_of(x)) == 2 and isinstance(shape_of(x)[-1], int):
            size = whole(shape_of(x)[-1])
            if size % 2 == 0:
                half = size // 2
                gate, up = self.nodes("split", x, sizes=(half, half), dim=-1)
                y = self.make("mul", self.activated(gate), up)
        elif kind == 2 and len(shape_of(x)) >= 1:
            y = self.make("mul", y, self.weight(whole(shape_of(x)[-1])))
        self.keep(y)

    def pointwise(self) -> None:
        """A chain of pointwise operators with operands that broadcast."""
        x = self.any()
        for _ in range(self.rng.randint(1, 5)):
            x = self.step(x)
            if self.maybe(0.3):
                self.keep(x)
        self.keep(x)

    def rotation(self) -> None:
        """Rotary embedding of heads, in one of its spellings, or nearly."""
        x = self.tokens()
        size = self.rng.choice((SIZE, SIZE, 6))
        heads = self.make("linear", x, self.matrix(HEADS * size, self.hidden))
        heads = self.make("reshape", heads, shape=(self.rows, HEADS, size))
        self.keep(self.rotated(heads))

    def attention(self) -> None:
        """Queries, keys and values, their rotation, the write to memory, and attention."""
        layer = LayerState(HEADS, SIZE, SIZE, self.dtype)
        if self.state is None:
            kv = StateType("kv", (layer,) * self.layers)
            self.state = self.builder.input("kv", kv)
            self.slots = self.builder.input("slots", TensorType(DType.I64, (self.rows,)))
            self.starts = self.builder.input("starts", TensorType(DType.I32, (S + 1,)))
            self.lengths = self.builder.input("lengths", TensorType(DType.I32, (S,)))
            self.blocks = self.builder.input("tables", TensorType(DType.I32, (S, P)))
        number = self.written % self.layers
        self.written += 1
        x, heads = self.tokens(), []
        for name in "qkv":
            with self.inside(f"{self.module}.{name}"):
                y = self.make("linear", x, self.matrix(HEADS * SIZE, self.hidden))
                heads.append(self.make("reshape", y, shape=(self.rows, HEADS, SIZE)))
        q, k, v = heads
        if self.maybe(0.4):
            q, k = self.normed(q), self.normed(k)
        if self.maybe(0.8):
            q, k = self.rotated(q), self.rotated(k)
        if self.maybe(0.2):
            q = self.make("mul", q, scalar=0.5)
        q, k, v = (one if self.is_main(one) else self.cast(one, self.dtype) for one in (q, k, v))
        self.state = self.make("kv_write", self.state, k, v, self.slots, layer=number)
        if self.maybe(0.2):
            number = self.rng.randrange(self.layers)
        context = self.starts, self.lengths, self.blocks
        y = self.make("attention", q, self.state, *context, layer=number, scale=0.5)
        y = self.make("reshape", y, shape=(self.rows, HEADS * SIZE))
        y = self.make("linear", y, self.matrix(self.hidden, HEADS * SIZE))
        self.keep(self.make("add", x, y) if self.maybe(0.7) else y)

    def move(self) -> None:
        """Reshapes, permutes, cuts and joins, a few in a row."""
        x = self.any(1)
        for _ in range(self.rng.randint(1, 4)):
            x = self.moved(x)
            if self.maybe(0.3):
                self.keep(x)
        self.keep(x)

    def indexed(self) -> None:
        """Rows of something, or of a table."""
        x = self.any(1)
        index = self.rng.choice((self.wanted, self.ids))
        if shape_of(x)[0] != self.rows:
            x = self.tokens()
        if index is self.ids:
            self.keep(self.make("index_select", self.weight(VOCABULARY, 4), index, dim=0))
        else:
            self.keep(self.make("index_select", x, index, dim=0))

    def opaque(self) -> None:
        """Something that no kernel family covers, PyTorch's own operators among it."""
        x = self.wide()
        axis = len(shape_of(x)) - 1
        kind = self.rng.randrange(6)
        if kind == 0:
            self.keep(self.make("cumsum", x, dim=axis))
        elif kind == 1:
            self.keep(self.nodes("topk", x, k=1, dim=axis)[0])
        elif kind == 2:
            self.keep(self.nodes("sort", x, dim=axis)[0])
        elif kind == 3:
            index = self.make("argmax", x, dim=axis, keepdim=True)
            self.keep(self.make("scatter", x, index, self.make("neg", x), dim=axis))
        elif kind == 4:
            loc = SourceLocation("modeling.py", self.line, self.module)
            args = {"args": (Operand(0),)}
            y = self.builder.one("aten.atan.default", [x], args, types=[x.type], loc=loc)
            self.keep(y)
        else:
            self.keep(self.make("softmax", x, dim=self.rng.randrange(axis + 1)))

    def reduced(self) -> None:
        """A sum, mean or maximum over some dimension."""
        x = self.any(1)
        axis = self.rng.randrange(len(shape_of(x)))
        op = self.rng.choice(("sum", "mean", "amax", "var"))
        attrs: dict[str, Attr] = {"dims": (axis,), "keepdim": self.maybe()}
        if op == "var":
            attrs["correction"] = 0
        self.keep(self.make(op, x, **attrs))

    def constant(self) -> None:
        """Something made of weights alone, or of nothing."""
        if self.maybe(0.7):
            x = self.weight(self.hidden, 2)
            for _ in range(self.rng.randint(0, 3)):
                x = self.moved(x) if self.maybe() else self.step(x)
            self.keep(x)
        else:
            shape: tuple[Dim, ...] = (self.rows, self.hidden)
            self.keep(self.make("full", shape=shape, dtype=self.dtype, value=0.5))


BLOCKS: Mapping[Callable[[_Model], None], int] = MappingProxyType(
    {
        _Model.linears: 5,
        _Model.norm: 4,
        _Model.activation: 4,
        _Model.pointwise: 4,
        _Model.rotation: 3,
        _Model.attention: 2,
        _Model.move: 3,
        _Model.indexed: 1,
        _Model.opaque: 1,
        _Model.reduced: 1,
        _Model.constant: 1,
    }
)


@contextmanager
def _nowhere() -> Iterator[None]:
    yield

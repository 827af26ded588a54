"""Random well-formed graphs over the whole table, with odd names and all kinds of attributes."""

from __future__ import annotations

import math
from random import Random

from graphopt.ir.builder import GraphBuilder
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Attr, Graph, Operand, SourceLocation, Value
from graphopt.ir.shape import Expr, dim_max, dim_min
from graphopt.ir.types import StateType, TensorType, Type

from .sample_types import ANY, P, R, S, T, shape_of
from .samples import SAMPLES

ODD_NAMES = (
    "", " ", "a b", 'quo"te', "back\\slash", "new\nline", "tab\t", "ünïcode", "\ud800", "//x in y",
    "-", ".hidden", "a:b", "%0", "@w", "}", "return", "graph", "none", "1.5", "model.layers.0.w",
    "x-y_z.0", "\u2028", "🙂", "in", "f32",
)  # fmt: skip
FLOATS = (0.0, -0.0, 1.0, -2.5, 1e-05, 1e300, 5e-324, 0.1, math.inf, -math.inf, math.nan, 1e16)
EXPRESSIONS: tuple[Expr, ...] = tuple(
    dim
    for dim in (
        T + 1, -T, 2 * T - 3 * R, T // 4, (T + 3) // 4 * 4, T % 8, dim_min(T, 7), dim_max(T, S + 1),
        (T * R) // (S + 1), T * T - 1, -(T // 2), dim_min(T, dim_max(R, S) % 5), (T // 2) // 3,
    )
    if isinstance(dim, Expr)
)  # fmt: skip


def odd_name(rng: Random, taken: set[str]) -> str:
    name = rng.choice(ODD_NAMES)
    while name in taken:
        name += rng.choice(("x", "'", ".", "é", "0"))
    taken.add(name)
    return name


def random_attr(rng: Random, inputs: int, depth: int = 0) -> Attr:
    kind = rng.randrange(9 if depth < 3 else 8)
    plain: tuple[Attr, ...] = (
        None,
        rng.random() < 0.5,
        rng.choice((0, 1, -1, 2**63, -(2**63), 17)),
        rng.choice(FLOATS),
        rng.choice(ODD_NAMES),
        rng.choice(list(DType)),
        rng.choice(EXPRESSIONS),
        Operand(rng.randrange(inputs)) if inputs else None,
    )
    if kind < 8:
        return plain[kind]
    return tuple(random_attr(rng, inputs, depth + 1) for _ in range(rng.randint(0, 3)))


def random_location(rng: Random) -> SourceLocation | None:
    if rng.random() < 0.3:
        return None
    file = rng.choice(("", "modeling_llama.py", "odd name.py", 'q".py', "in", "ü.py"))
    module = rng.choice(("", "model.layers.0", *ODD_NAMES))
    return SourceLocation(file, rng.choice((0, 1, 4096)), module)


class Grower:
    """Adds random nodes to a graph, on values there are or on new inputs and weights."""

    def __init__(self, rng: Random, *, odd: bool) -> None:
        self.rng = rng
        self.odd = odd
        self.taken: set[str] = set()
        self.builder = GraphBuilder(rng.choice(ODD_NAMES) if odd else "random")
        self.values: list[Value] = []
        self.latest: list[Value] = []
        for i, dim in enumerate((T, R, S, P)):
            self.new_input(TensorType(DType.I64, (dim,)), f"size{i}")

    def new_input(self, type_: Type, name: str | None = None) -> Value:
        number = len(self.taken)
        if name is None:
            name = odd_name(self.rng, self.taken) if self.odd else f"in{number}"
        self.taken.add(name)
        value = self.builder.input(name, type_)
        self.values.append(value)
        if isinstance(type_, StateType):
            self.latest.append(value)
        return value

    def value(self, type_: Type) -> Value:
        """A value of a type: one that there is, or a new input or weight."""
        pool = self.latest if isinstance(type_, StateType) else self.values
        found = [value for value in pool if value.type == type_]
        if found and self.rng.random() < 0.8:
            return self.rng.choice(found)
        static = isinstance(type_, TensorType) and all(isinstance(d, int) for d in type_.shape)
        if static and self.rng.random() < 0.5:
            number = len(self.taken)
            name = odd_name(self.rng, self.taken) if self.odd else f"layer.{number}.weight"
            self.taken.add(name)
            weight = self.builder.weight(name, type_)
            self.values.append(weight)
            return weight
        return self.new_input(type_)

    def names(self, count: int) -> list[str] | None:
        if not self.odd or self.rng.random() < 0.5:
            return None
        return [odd_name(self.rng, self.taken) for _ in range(count)]

    def native(self) -> None:
        op = self.rng.choice(sorted(SAMPLES))
        sample = SAMPLES[op](self.rng)
        inputs = [self.value(type_) for type_ in sample.types]
        outputs = self.builder.node(op, inputs, sample.attrs, loc=random_location(self.rng))
        self.taken.update(value.name for value in outputs)
        for old in inputs if isinstance(outputs[0].type, StateType) else ():
            if old in self.latest:
                self.latest.remove(old)
        self.latest.extend(value for value in outputs if isinstance(value.type, StateType))
        self.values.extend(outputs)

    def aten(self) -> None:
        tensors = [value for value in self.values if isinstance(value.type, TensorType)]
        inputs = self.rng.sample(tensors, self.rng.randint(0, min(3, len(tensors))))
        args = [random_attr(self.rng, len(inputs)) for _ in range(self.rng.randint(0, 4))]
        args += [Operand(i) for i in range(len(inputs))]
        types = [
            TensorType(self.rng.choice(ANY), shape_of(self.rng))
            for _ in range(self.rng.randint(1, 3))
        ]
        outputs = self.builder.node(
            self.rng.choice(("aten.foo", "aten.index.Tensor", "aten.__and__.Scalar")),
            inputs,
            {"args": tuple(args)},
            types=types,
            names=self.names(len(types)),
            loc=random_location(self.rng),
        )
        self.taken.update(value.name for value in outputs)
        self.values.extend(outputs)

    def finish(self) -> Graph:
        pool = self.latest + [v for v in self.values if isinstance(v.type, TensorType)]
        count = self.rng.choice((0, 1, 1, 1, 2, 3))
        return self.builder.finish([self.rng.choice(pool) for _ in range(count)])


def random_graph(seed: int, *, odd: bool = True, most: int = 12, aten: bool = True) -> Graph:
    """A graph that depends on nothing but ``seed``."""
    rng = Random(seed)
    grower = Grower(rng, odd=odd)
    for _ in range(rng.randint(0, most)):
        if aten and rng.random() < 0.3:
            grower.aten()
        else:
            grower.native()
    return grower.finish()

"""What samples are made of: sizes, shapes and types to draw from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from random import Random

from graphopt.ir.dtype import DType
from graphopt.ir.graph import Attr
from graphopt.ir.shape import Dim, sym
from graphopt.ir.types import TensorType, Type

T, R, S, P = sym("T"), sym("R"), sym("S"), sym("P")
FLOATS = (DType.F32, DType.F64, DType.BF16, DType.F16)
INTS = (DType.I64, DType.I32, DType.I16, DType.I8, DType.U8)
NUMBERS = FLOATS + INTS
ANY = (*NUMBERS, DType.BOOL)
FIXED: tuple[Dim, ...] = (1, 2, 3, 5, 7)
SIZES: tuple[Dim, ...] = (*FIXED, T, R, T + 1, 2 * T, R * 3)


@dataclass(frozen=True)
class Sample:
    """Types of the inputs and attributes; ``limits`` bounds the integers of an input from above."""

    types: tuple[Type, ...]
    attrs: Mapping[str, Attr] = field(default_factory=dict)
    limits: Mapping[int, Dim] = field(default_factory=dict)


Make = Callable[[Random], Sample]


def shape_of(
    rng: Random, least: int = 0, most: int = 4, sizes: tuple[Dim, ...] = SIZES
) -> tuple[Dim, ...]:
    return tuple(rng.choice(sizes) for _ in range(rng.randint(least, most)))


def tensor_of(
    rng: Random, dtypes: tuple[DType, ...] = FLOATS, least: int = 0, most: int = 4
) -> TensorType:
    return TensorType(rng.choice(dtypes), shape_of(rng, least, most))


def axis_of(rng: Random, x: TensorType) -> int:
    rank = len(x.shape)
    return rng.randrange(-rank, rank)


def axes_of(rng: Random, x: TensorType) -> tuple[int, ...]:
    axes = [i for i in range(len(x.shape)) if rng.random() < 0.5]
    rng.shuffle(axes)
    return tuple(axis - rng.choice((0, len(x.shape))) for axis in axes)


def narrower(rng: Random, shape: tuple[Dim, ...]) -> tuple[Dim, ...]:
    """A shape that broadcasts to ``shape``."""
    kept = tuple(1 if rng.random() < 0.3 else size for size in shape)
    return kept[rng.randint(0, len(kept)) if rng.random() < 0.3 else 0 :]

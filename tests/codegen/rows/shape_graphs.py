"""Graphs of views, and of what is put together from parts."""

from __future__ import annotations

from graphopt.ir.dtype import DType
from graphopt.ir.graph import Attr, Graph
from graphopt.ir.shape import sym
from graphopt.ir.types import TensorType

from .cases import chain, operation

T, R = sym("T"), sym("R")
F32, BF16, F16, I64, BOOL = DType.F32, DType.BF16, DType.F16, DType.I64, DType.BOOL


def _views(x: TensorType, *steps: tuple[str, dict[str, Attr]]) -> Graph:
    """A chain of views between two pointwise nodes."""

    def make(b, given):  # type: ignore[no-untyped-def]
        value = b.one("neg", given)
        for op, attrs in steps:
            value = b.one(op, [value], attrs)
        return [b.one("exp", [value])]

    return chain([x], make)


def views() -> list[Graph]:
    """Views between two pointwise nodes."""
    x = TensorType(F32, (T, 4, 6))
    return [
        _views(x, ("reshape", {"shape": (T, 24)})),
        _views(x, ("reshape", {"shape": (T * 4, 6)})),
        _views(x, ("permute", {"dims": (0, 2, 1)}), ("reshape", {"shape": (T, 24)})),
        _views(x, ("permute", {"dims": (1, 0, 2)})),
        _views(x, ("permute", {"dims": (1, 0, 2)}), ("reshape", {"shape": (1, 4, T, 6)})),
        _views(x, ("slice", {"dim": 1, "start": 1, "end": 4, "step": 2})),
        _views(x, ("slice", {"dim": 2, "start": 1, "end": 6, "step": 2})),
        _views(x, ("select", {"dim": 1, "index": -1})),
        _views(x, ("flip", {"dims": (1, 2)})),
        _views(x, ("select", {"dim": 2, "index": 1}), ("expand", {"shape": (3, T, 4)})),
        _views(x, ("reshape", {"shape": (T, 2, 2, 6)}), ("permute", {"dims": (0, 2, 1, 3)})),
    ]


def split() -> Graph:
    """Parts that do not lie side by side."""
    return chain(
        [TensorType(BF16, (T, 40))],
        lambda b, x: [
            b.one("mul", [parts[0], parts[2]])
            for parts in [b.node("split", x, {"sizes": (7, 26, 7), "dim": 1})]
        ],
    )


def assembled() -> list[Graph]:
    """What is put together, alone and computed with."""
    x, y = TensorType(F32, (T, 3, 5)), TensorType(F32, (T, 3, 2))
    return [
        operation("concat", [x, y, x], dim=2),
        operation("concat", [x, x], dim=1),
        chain([x, y], lambda b, v: [b.one("exp", [b.one("concat", v, {"dim": 2})])]),
        chain(
            [x, y],
            lambda b, v: [
                b.one("concat", [b.one("concat", v, {"dim": 2}), b.one("neg", [v[0]])], {"dim": 2})
            ],
        ),
        operation("pad_constant", [x], pads=(1, 2, 0, 3), value=0.5),
        operation("pad_constant", [x], pads=(-1, 2, 1, -1), value=0.5),
        operation("roll", [x], shifts=(2, -1), dims=(1, 2)),
        operation("roll", [x], shifts=(), dims=()),
        operation("repeat_interleave", [x], repeats=3, dim=1),
        operation("repeat_interleave", [x], repeats=2, dim=2),
        operation("repeat_interleave", [TensorType(I64, (T, 5))], repeats=2, dim=0),
        operation("flip", [x], dims=(2,)),
        operation("flip", [x], dims=(0,)),
    ]


def several_results() -> list[Graph]:
    """Results of one row that have other shapes, or the same one in another order."""

    def turned(b, x):  # type: ignore[no-untyped-def]
        return [b.one("exp", x), b.one("permute", [b.one("neg", x)], {"dims": (1, 0, 2)})]

    def first(b, x):  # type: ignore[no-untyped-def]
        layers = b.one("concat", [b.one("neg", [x[0]]), x[1]], {"dim": 0})
        return [layers, b.one("exp", [b.one("select", [layers], {"dim": 0, "index": 0})])]

    def flat(b, x):  # type: ignore[no-untyped-def]
        return [b.one("reshape", [b.one("neg", x)], {"shape": (1, T, 6, 1)}), b.one("exp", x)]

    return [
        chain([TensorType(F32, (T, 4, 6))], turned),
        chain([TensorType(F32, (1, T, 6)), TensorType(F32, (3, T, 6))], first),
        chain([TensorType(F32, (T, 6))], flat),
    ]

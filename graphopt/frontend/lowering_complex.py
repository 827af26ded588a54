"""Lowerings on complex tensors, which the IR does not have: pairs of real ones.

Rotary embeddings are written with them: an angle becomes ``polar``, a head is viewed as complex
numbers, multiplied, and viewed as real ones again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from graphopt.ir.graph import Value
from graphopt.ir.shape import Dim

from .emitter import type_of
from .lowering import Call, Complex, Lowering, NotLowered, Result, rank_of
from .lowering_layers import LAYERS
from .lowering_shape import SHAPE


def _complex(call: Call, name: str) -> Complex:
    found = call.get(name)
    if not isinstance(found, Complex):
        raise NotLowered(f"{call.name}: {name} is not complex")
    return found


def _polar(call: Call) -> Result:
    size, angle = call.value("abs"), call.value("angle")
    cos, sin = call.emit.one("cos", [angle]), call.emit.one("sin", [angle])
    return Complex(call.emit.one("mul", [size, cos]), call.emit.one("mul", [size, sin]))


def _join(call: Call) -> Result:
    return Complex(call.value("real"), call.value("imag"))


def _view_as_complex(call: Call) -> Result:
    x = call.value("self")
    last = rank_of(x) - 1
    parts = [call.emit.one("select", [x], {"dim": last, "index": i}) for i in (0, 1)]
    return Complex(*parts)


def _view_as_real(call: Call) -> Result:
    number = _complex(call, "self")
    shape: list[Dim] = [*type_of(number.real).shape, 1]
    parts = [call.emit.reshape(part, shape) for part in (number.real, number.imaginary)]
    return call.emit.concat(parts, len(shape) - 1)


def _multiply(call: Call) -> Result:
    a, b = call.get("self"), call.get("other")
    emit = call.emit
    if isinstance(a, Complex) and isinstance(b, Complex):
        real = emit.one(
            "sub", [emit.one("mul", [a.real, b.real]), emit.one("mul", [a.imaginary, b.imaginary])]
        )
        imaginary = emit.one(
            "add", [emit.one("mul", [a.real, b.imaginary]), emit.one("mul", [a.imaginary, b.real])]
        )
        return Complex(real, imaginary)
    number, factor = (a, b) if isinstance(a, Complex) else (b, a)
    if not isinstance(number, Complex):
        raise NotLowered("no complex operand")
    return _each(number, lambda part: _scaled(call, part, factor))


def _scaled(call: Call, part: Value, factor: object) -> Value:
    if isinstance(factor, Value):
        return call.emit.one("mul", [part, call.emit.cast(factor, type_of(part).dtype)])
    if isinstance(factor, int | float):
        return call.emit.one("mul", [part], {"scalar": float(factor)})
    raise NotLowered("a factor that is complex")


def _each(number: Complex, change: Callable[[Value], Value]) -> Complex:
    return Complex(change(number.real), change(number.imaginary))


def _twice(lower: Lowering) -> Lowering:
    """A lowering that moves elements and computes nothing, done to both parts."""

    def both(call: Call) -> Result:
        number = _complex(call, "self")
        parts = [lower(call.with_value("self", p)) for p in (number.real, number.imaginary)]
        real, imaginary = parts
        if isinstance(real, Value) and isinstance(imaginary, Value):
            return Complex(real, imaginary)
        raise NotLowered(f"{call.name} on complex numbers")

    return both


def _cast(call: Call) -> Result:
    """To the type it has: anything else drops a part, or rounds both."""
    given, wanted = call.fake_of("self"), call.fake
    if not isinstance(given, torch.Tensor) or not isinstance(wanted, torch.Tensor):
        raise NotLowered(f"{call.name}: not a tensor")
    if given.dtype != wanted.dtype:
        raise NotLowered("complex numbers of another type", got=wanted.dtype)
    return _complex(call, "self")


def _part(imaginary: bool) -> Lowering:
    def lower(call: Call) -> Result:
        number = _complex(call, "self")
        return number.imaginary if imaginary else number.real

    return lower


COMPLEX: Mapping[str, Lowering] = {
    "aten.polar": _polar,
    "aten.complex": _join,
    "aten.view_as_complex": _view_as_complex,
    "aten.view_as_real": _view_as_real,
    "aten.mul.Tensor": _multiply,
    "aten.mul.Scalar": _multiply,
    "aten.real": _part(imaginary=False),
    "aten.imag": _part(imaginary=True),
    **{
        f"aten.{name}": _twice(SHAPE[f"aten.{name}"])
        for name in [
            "view.default",
            "reshape",
            "unsqueeze",
            "squeeze",
            "flatten",
            "unflatten",
            "expand",
            "alias",
            "clone",
            "contiguous",
            "detach",
            "slice",
            "select",
            "transpose",
            "permute",
        ]
    },
    "aten.index_select": _twice(LAYERS["aten.index_select"]),
    "aten.index.Tensor": _twice(LAYERS["aten.index.Tensor"]),
    "aten.to": _cast,
}

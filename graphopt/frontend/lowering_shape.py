"""Lowerings of PyTorch's views, joins, cuts and new tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from graphopt.ir.dtype import DType
from graphopt.ir.graph import Attr, Value
from graphopt.ir.shape import Dim, Expr, dim_max, dim_min, lower_bound

from .emitter import type_of
from .lowering import Call, Lowering, NotLowered, Result, fixed, rank_of

_FAR = 1 << 62  # PyTorch writes "to the end" as a number this large


def _same(call: Call) -> Result:
    return call.value("self")


def _dropout(call: Call) -> Result:
    if call.get("train", False) and call.get("p", 0.0):
        raise NotLowered("dropout while training")
    return call.value("input")


def _reshape(call: Call) -> Result:
    return call.emit.reshape(call.value("self"), call.shape)


def _transpose(call: Call) -> Result:
    x = call.value("self")
    rank = rank_of(x)
    names = ("axis0", "axis1") if call.has("axis0") else ("dim0", "dim1")
    a, b = (call.axis(name) for name in names)
    order = list(range(rank))
    order[a], order[b] = order[b], order[a]
    return call.emit.permute(x, order)


def _flip_last_two(call: Call) -> Result:
    x = call.value("self")
    order = list(range(rank_of(x)))
    return call.emit.permute(x, [*order[:-2], *order[:-3:-1]])


def _reverse_dims(call: Call) -> Result:
    x = call.value("self")
    return call.emit.permute(x, range(rank_of(x))[::-1])


def _permute(call: Call) -> Result:
    return call.emit.permute(call.value("self"), call.get("dims"))


def _movedim(call: Call) -> Result:
    source, target = call.axis("source"), call.axis("destination")
    order = [dim for dim in range(rank_of(call.value("self"))) if dim != source]
    order.insert(target, source)
    return call.emit.permute(call.value("self"), order)


def _expand(call: Call) -> Result:
    return call.emit.expand(call.value("self"), call.shape)


def _position(value: object, size: Dim, default: Dim) -> Dim:
    """A position counted from the front and inside ``size``."""
    if value is None:
        return default
    if not isinstance(value, int | Expr) or isinstance(value, bool):
        raise NotLowered("a position is not a size", got=repr(value))
    if isinstance(value, int):
        if value >= _FAR:
            return size
        if value < 0:
            value = size + value
    if isinstance(value, int) and isinstance(size, int):
        return min(max(value, 0), size)
    return value


def _slice(call: Call) -> Result:
    x, dim = call.value("self"), call.axis("dim", default=0)
    size = type_of(x).shape[dim]
    start = _position(call.get("start"), size, 0)
    end = _position(call.get("end"), size, size)
    step = fixed(call.number("step", 1), "the step of a slice")
    if start == 0 and call.shape[dim] == size and step == 1:
        return x  # the end lies beyond, as in weight[:T + 5] over T rows
    if isinstance(size, Expr) or isinstance(start, Expr) or isinstance(end, Expr):
        start, end = _inside(start, end, size, call.shape[dim], step)
    return call.emit.slice(x, dim, start, end, step)


def _inside(start: Dim, end: Dim, size: Dim, length: Dim, step: int) -> tuple[Dim, Dim]:
    """Bounds of a slice that PyTorch found to have ``length`` elements."""
    if step == 1:
        return start, start + length
    bound = lower_bound(size - end)
    if bound is None or bound < 0:
        end = dim_max(start, dim_min(end, size))
    return start, end


def _narrow(call: Call) -> Result:
    dim, start = call.axis("dim"), call.number("start")
    size = type_of(call.value("self")).shape[dim]
    first = _position(start, size, 0)
    return call.emit.slice(call.value("self"), dim, first, first + call.number("length"))


def _select(call: Call) -> Result:
    x, dim = call.value("self"), call.axis("dim")
    index = call.number("index")
    if isinstance(index, int) and index < 0:
        index = type_of(x).shape[dim] + index
    return call.emit.one("select", [x], {"dim": dim, "index": index})


def _cuts(call: Call) -> Result:
    """``split``, ``chunk`` and the like: the results' own sizes say where to cut."""
    x = call.value("self")
    dim = call.axis("dim", default=0)
    fakes = call.fake if isinstance(call.fake, tuple | list) else ()
    sizes = tuple(type_.shape[dim] for type_ in call.types())
    if len(fakes) == 1:
        return (x,)
    return call.emit.node("split", [x], {"sizes": sizes, "dim": dim})


def _unbind(call: Call) -> Result:
    x, dim = call.value("self"), call.axis("dim", default=0)
    size = fixed(type_of(x).shape[dim], "the number of results of unbind")
    emit = call.emit
    return tuple(emit.one("select", [x], {"dim": dim, "index": i}) for i in range(size))


def _concat(call: Call) -> Result:
    parts = [call.emit.cast(part, call.dtype) for part in call.values("tensors")]
    rank = len(call.shape)
    parts = [part for part in parts if rank_of(part) == rank]  # PyTorch skips old empty tensors
    return call.emit.concat(parts, call.get("dim", 0) % rank)


def _stack(call: Call) -> Result:
    dim = call.get("dim", 0) % len(call.shape)
    shape = list(call.shape)
    shape[dim] = 1
    parts = [call.emit.cast(part, call.dtype) for part in call.values("tensors")]
    return call.emit.concat([call.emit.reshape(part, shape) for part in parts], dim)


def _repeat(call: Call) -> Result:
    """Whole copies side by side: through a dimension of copies in front of each one repeated."""
    x, repeats = call.value("self"), call.get("repeats")
    new = len(repeats) - rank_of(x)
    own = (1,) * new + type_of(x).shape
    before: list[Dim] = []
    spread: list[Dim] = []
    for size, times in zip(own, repeats, strict=True):
        if times != 1:
            before += [1, size]
            spread += [times, size]
        else:
            before.append(size)
            spread.append(size)
    spreaded = call.emit.expand(call.emit.reshape(x, before), spread)
    return call.emit.reshape(spreaded, call.shape)


def _repeat_interleave(call: Call) -> Result:
    x, times = call.value("self"), call.get("repeats")
    if not call.has("dim") or not isinstance(times, int):
        raise NotLowered("repeats that are a tensor, or of the flat elements")
    attrs = {"repeats": times, "dim": call.axis("dim")}
    return x if times == 1 else call.emit.one("repeat_interleave", [x], attrs)


def _pad(call: Call) -> Result:
    if call.get("mode", "constant") != "constant":
        raise NotLowered("padding that is not constant")
    pads = tuple(call.get("pad"))
    if all(pad == 0 for pad in pads):
        return call.value("self")
    attrs = {"pads": pads, "value": call.number("value", 0)}
    return call.emit.one("pad_constant", [call.value("self")], attrs)


def _triangle(op: str) -> Lowering:
    def lower(call: Call) -> Result:
        return call.emit.one(op, [call.value("self")], {"diagonal": call.number("diagonal", 0)})

    return lower


def _flip(call: Call) -> Result:
    dims = tuple(sorted(dim % rank_of(call.value("self")) for dim in call.get("dims")))
    return call.emit.one("flip", [call.value("self")], {"dims": dims})


def _roll(call: Call) -> Result:
    dims, shifts = call.get("dims"), call.get("shifts")
    if not dims:
        raise NotLowered("a roll of the flat elements")
    return call.emit.one(
        "roll", [call.value("self")], {"shifts": _ints(shifts), "dims": _ints(dims)}
    )


def _ints(value: object) -> tuple[int, ...]:
    items: Sequence[Any] = value if isinstance(value, Sequence) else (value,)
    return tuple(fixed(item, "a shift") for item in items)


def _constant(number: bool | int | float) -> Lowering:
    def lower(call: Call) -> Result:
        return call.emit.full(call.shape, call.dtype, number)

    return lower


def _full(call: Call) -> Result:
    name = "fill_value" if call.has("fill_value") else "value" if call.has("value") else "s"
    given = call.get(name)
    if isinstance(given, Value):
        cast = call.emit.cast(given, call.dtype)
        return call.emit.expand(cast, call.shape)
    if isinstance(given, Expr):
        attrs: dict[str, Attr] = {"shape": call.shape, "dtype": call.dtype, "value": given}
        return call.emit.one("full", [], attrs)
    return call.emit.full(call.shape, call.dtype, given)


def _range(call: Call) -> Result:
    start, end, step = call.number("start", 0), call.number("end"), call.number("step", 1)
    dtype = call.dtype
    attrs: dict[str, Attr] = {"start": start, "end": end, "step": step, "dtype": dtype}
    if dtype.is_float and dtype not in (DType.F64, DType.F32):
        raise NotLowered("a range of short floats")
    return call.emit.one("iota", [], attrs)


def _copy(call: Call) -> Result:
    """What ``copy_`` leaves in its destination."""
    source = call.emit.cast(call.value("src"), call.dtype)
    return call.emit.expand(source, call.shape)


SHAPE: Mapping[str, Lowering] = {
    **{
        f"aten.{name}": _same
        for name in [
            "alias",
            "clone",
            "contiguous",
            "detach",
            "lift",
            "lift_fresh",
            "lift_fresh_copy",
            "positive",
            "resolve_conj",
            "resolve_neg",
        ]
    },
    **{
        f"aten.{name}": _reshape
        for name in [
            "view.default",
            "_unsafe_view",
            "reshape",
            "flatten",
            "unflatten",
            "squeeze",
            "unsqueeze",
            "view_as",
            "reshape_as",
            "squeeze_copy",
            "unsqueeze_copy",
            "view_copy",
            "ravel",
        ]
    },
    "aten.dropout": _dropout,
    "aten.feature_dropout": _dropout,
    "aten.alpha_dropout": _dropout,
    "aten.transpose": _transpose,
    "aten.swapaxes": _transpose,
    "aten.t": _flip_last_two,
    "aten.mT": _flip_last_two,
    "aten.numpy_T": _reverse_dims,
    "aten.permute": _permute,
    "aten.movedim.int": _movedim,
    "aten.expand": _expand,
    "aten.expand_as": _expand,
    "aten.broadcast_to": _expand,
    "aten.slice": _slice,
    "aten.narrow": _narrow,
    "aten.select": _select,
    "aten.split": _cuts,
    "aten.split_with_sizes": _cuts,
    "aten.chunk": _cuts,
    "aten.unsafe_chunk": _cuts,
    "aten.unsafe_split": _cuts,
    "aten.tensor_split.sections": _cuts,
    "aten.tensor_split.indices": _cuts,
    "aten.unbind": _unbind,
    "aten.cat": _concat,
    "aten.concat": _concat,
    "aten.concatenate": _concat,
    "aten.stack": _stack,
    "aten.repeat": _repeat,
    "aten.repeat_interleave.self_int": _repeat_interleave,
    "aten.pad": _pad,
    "aten.constant_pad_nd": _pad,
    "aten.tril": _triangle("tril"),
    "aten.triu": _triangle("triu"),
    "aten.flip": _flip,
    "aten.roll": _roll,
    "aten.zeros": _constant(0),
    "aten.zeros_like": _constant(0),
    "aten.new_zeros": _constant(0),
    "aten.zero": _constant(0),
    "aten.empty": _constant(0),
    "aten.empty_like": _constant(0),
    "aten.new_empty": _constant(0),
    "aten.ones": _constant(1),
    "aten.ones_like": _constant(1),
    "aten.new_ones": _constant(1),
    "aten.full": _full,
    "aten.full_like": _full,
    "aten.new_full": _full,
    "aten.fill": _full,
    "aten.scalar_tensor": _full,
    "aten.arange": _range,
    "aten.copy": _copy,
}

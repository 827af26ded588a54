"""Writing through a view: the tensor that a view looks into, with the view's part replaced.

before:  %v = slice(%x, 1, 3);  copy_(%v, %y)
after:   %x1 = concat(slice(%x, 0, 1), %y, slice(%x, 3, end))
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from graphopt.ir.graph import Value

from .emitter import type_of
from .lowering import Call, NotLowered, Result, fixed, rank_of

# From the call that made the view, the tensor viewed and the view's new contents, to the tensor.
Insert = Callable[[Call, Value, Value], Value]


def insert_into_viewed(call: Call, viewed: Result, part: Value) -> Value:
    """``viewed`` with what ``call`` views of it replaced by ``part``.

    Raises:
        NotLowered: we do not know where this view puts its elements.
    """
    packet = ".".join(call.name.split(".")[:2])
    insert = _INSERTS.get(call.name) or _INSERTS.get(packet)
    if insert is None or not isinstance(viewed, Value):
        raise NotLowered(f"a write through {call.name}")
    return insert(call, viewed, part)


def _reshaped(call: Call, viewed: Value, part: Value) -> Value:
    return call.emit.reshape(part, type_of(viewed).shape)


def _transposed(call: Call, viewed: Value, part: Value) -> Value:
    order = list(range(rank_of(viewed)))
    a, b = call.axis("dim0"), call.axis("dim1")
    order[a], order[b] = order[b], order[a]
    return call.emit.permute(part, order)


def _permuted(call: Call, viewed: Value, part: Value) -> Value:
    dims = [dim % rank_of(viewed) for dim in call.get("dims")]
    return call.emit.permute(part, [dims.index(dim) for dim in range(len(dims))])


def _sliced(call: Call, viewed: Value, part: Value) -> Value:
    dim = call.axis("dim", default=0)
    size, length = type_of(viewed).shape[dim], type_of(part).shape[dim]
    start = call.get("start", 0)
    if isinstance(start, int) and start < 0:
        start = size + start
    if isinstance(start, int) and isinstance(size, int):
        start = min(max(start, 0), size)
    if call.get("step", 1) != 1:
        return _interleaved(call, viewed, part, dim, fixed(start, "the start of a slice"))
    return _joined(call, viewed, part, dim, start, start + length)


def _interleaved(call: Call, viewed: Value, part: Value, dim: int, start: int) -> Value:
    """Writes ``part`` at ``start``, ``start + step``, ...: a choice per place along ``dim``."""
    emit, what = call.emit, "a write through a slice with steps"
    step = fixed(call.number("step"), what)
    size = fixed(type_of(viewed).shape[dim], what)
    length = fixed(type_of(part).shape[dim], what)
    places = emit.one("iota", [], {"end": size})
    offset = emit.one("sub", [places], {"scalar": start})
    rest = emit.one("remainder", [offset], {"scalar": step})
    on_step = emit.one("eq", [rest], {"scalar": 0})
    begun = emit.one("ge", [places], {"scalar": start})
    ended = emit.one("lt", [places], {"scalar": start + step * length})
    chosen = emit.one("logical_and", [on_step, emit.one("logical_and", [begun, ended])])
    source = emit.one("floor_div", [offset], {"scalar": step})
    source = emit.one("clamp", [source], {"min": 0, "max": length - 1})
    spread = emit.one("index_select", [part, source], {"dim": dim})
    mask = emit.reshape(chosen, [size] + [1] * (rank_of(viewed) - dim - 1))
    return emit.one("where", [mask, spread, viewed])


def _selected(call: Call, viewed: Value, part: Value) -> Value:
    dim, index = call.axis("dim"), call.number("index")
    shape = list(type_of(viewed).shape)
    if isinstance(index, int) and index < 0:
        index = shape[dim] + index
    shape[dim] = 1
    return _joined(call, viewed, call.emit.reshape(part, shape), dim, index, index + 1)


def _joined(call: Call, viewed: Value, part: Value, dim: int, start: object, end: object) -> Value:
    size = type_of(viewed).shape[dim]
    before = call.emit.slice(viewed, dim, 0, start)  # type: ignore[arg-type]
    after = call.emit.slice(viewed, dim, end, size)  # type: ignore[arg-type]
    return call.emit.concat([before, part, after], dim)


_INSERTS: Mapping[str, Insert] = {
    **{
        f"aten.{name}": _reshaped
        for name in [
            "alias",
            "contiguous",
            "detach",
            "view.default",
            "_unsafe_view",
            "reshape",
            "flatten",
            "unflatten",
            "squeeze",
            "unsqueeze",
            "view_as",
            "to",
            "type_as",
        ]
    },
    "aten.transpose": _transposed,
    "aten.t": _transposed,
    "aten.permute": _permuted,
    "aten.slice": _sliced,
    "aten.select": _selected,
}

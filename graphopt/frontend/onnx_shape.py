"""Operators of ONNX that move, create and index data, as operators of the graph.

before:  y = Reshape(x, [0, -1, 64])
after:   %y = reshape(%x) {shape = [N, L, 64]}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from graphopt.ir.dtype import DType
from graphopt.ir.graph import Attr, Value
from graphopt.ir.shape import Dim, Expr, dim_max, dim_min, lower_bound, product
from graphopt.ir.types import TensorType

from .emitter import type_of
from .onnx_call import Call, Result, Rule
from .onnx_known import Known

_FAR = (1 << 31) - 1  # what exporters write for "to the end"


def reshaped(call: Call, shape: Sequence[Dim]) -> tuple[Dim, ...]:
    """What the elements of a Reshape's second input mean for its first."""
    x, zero_is_zero = call.type(0), call.attr_int("allowzero", 0)
    dims = list(shape)
    for place, dim in enumerate(dims):
        if dim == 0 and not zero_is_zero:
            if place >= len(x.shape):
                raise call.refused(f"dimension {place} of {x} is to be kept")
            dims[place] = x.shape[place]
    if -1 in dims:
        rest = product(dim for dim in dims if dim != -1)
        if dims.count(-1) > 1 or rest == 0:
            raise call.refused("the size that -1 stands for cannot be told")
        dims[dims.index(-1)] = product(x.shape) // rest
    return tuple(dims)


def _reshape(call: Call) -> Sequence[Result]:
    return [call.emit.reshape(call.value(0), reshaped(call, call.dims(1)))]


def _flatten(call: Call) -> Sequence[Result]:
    shape, axis = call.type(0).shape, call.attr_int("axis", 1)
    axis = axis + len(shape) if axis < 0 else axis
    return [call.emit.reshape(call.value(0), (product(shape[:axis]), product(shape[axis:])))]


def squeezed(call: Call, shape: Sequence[Dim]) -> tuple[Dim, ...]:
    """A shape without the dimensions that a Squeeze takes out."""
    axes = call.axes(1, len(shape))
    if axes is None:
        if not all(isinstance(dim, int) for dim in shape):
            raise call.refused("which dimensions have size 1 is not known before the model runs")
        axes = tuple(place for place, dim in enumerate(shape) if dim == 1)
    return tuple(dim for place, dim in enumerate(shape) if place not in axes)


def unsqueezed(call: Call, shape: Sequence[Dim]) -> tuple[Dim, ...]:
    """A shape with the dimensions that an Unsqueeze puts in."""
    given = call.attr_ints("axes") if call.has_attr("axes") else call.ints(1)
    axes = {call.axis(axis, len(shape) + len(given or ())) for axis in given or ()}
    rest = iter(shape)
    return tuple(1 if i in axes else next(rest) for i in range(len(shape) + len(axes)))


def _squeeze(call: Call) -> Sequence[Result]:
    x = call.value(0)
    return [call.emit.reshape(x, squeezed(call, type_of(x).shape))]


def _unsqueeze(call: Call) -> Sequence[Result]:
    x = call.value(0)
    return [call.emit.reshape(x, unsqueezed(call, type_of(x).shape))]


def _transpose(call: Call) -> Sequence[Result]:
    perm = call.attr_ints("perm")
    rank = call.rank(0)
    return [call.emit.permute(call.value(0), perm or tuple(reversed(range(rank))))]


def _expand(call: Call) -> Sequence[Result]:
    x = call.value(0)
    return [call.emit.expand(x, call.broadcast((type_of(x).shape, call.dims(1))))]


def _tile(call: Call) -> Sequence[Result]:
    x = call.value(0)
    for axis, times in enumerate(call.dims(1)):
        shape = type_of(x).shape
        if times == 1:
            continue
        apart = call.emit.reshape(x, (*shape[:axis], 1, *shape[axis:]))
        spread = call.emit.expand(apart, (*shape[:axis], times, *shape[axis:]))
        merged = (*shape[:axis], product((times, shape[axis])), *shape[axis + 1 :])
        x = call.emit.reshape(spread, merged)
    return [x]


def bounds(call: Call, size: Dim, start: Dim, end: Dim) -> tuple[Dim, Dim]:
    """Where a slice begins and ends, both counted from the front and inside."""
    return _inside(size, start), _inside(size, end)


def _inside(size: Dim, place: Dim) -> Dim:
    if isinstance(place, int):
        if place >= _FAR:
            return size
        return dim_min(place, size) if place >= 0 else _from_end(size, place)
    back = lower_bound(-place)
    if back is not None and back >= 0:
        return _from_end(size, place)
    # A table of positions is as long as sequences may be.
    return place if isinstance(size, int) else dim_min(place, size)


def _from_end(size: Dim, place: Dim) -> Dim:
    bound = lower_bound(size + place)
    return size + place if bound is not None and bound >= 0 else dim_max(0, size + place)


def _slice(call: Call) -> Sequence[Result]:
    x = call.value(0)
    rank = len(type_of(x).shape)
    starts, ends = call.dims(1), call.dims(2)
    axes = call.ints(3) if call.has(3) else tuple(range(len(starts)))
    steps = call.ints(4) if call.has(4) else (1,) * len(starts)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        place = call.axis(axis, rank)
        size = type_of(x).shape[place]
        if step < 0:
            x, start, end = _backwards(call, x, place, start, end)
        first, last = bounds(call, size, start, end)
        if isinstance(first, int) and isinstance(last, int):
            last = max(first, last)
        x = call.emit.slice(x, place, first, last, abs(step))
    return [x]


def _backwards(call: Call, x: Value, axis: int, start: Dim, end: Dim) -> tuple[Value, Dim, Dim]:
    """The same slice of the flipped tensor."""
    size = type_of(x).shape[axis]
    if not isinstance(start, int) or not isinstance(end, int):
        raise call.refused("a slice that goes backwards from a place that depends on a size")
    first: Dim = 0 if start >= _FAR else (-start - 1 if start < 0 else size - 1 - start)
    last: Dim = size if end <= -_FAR else (-end - 1 if end < 0 else size - 1 - end)
    return call.one("flip", [x], {"dims": (axis,)}), first, last


def _concat(call: Call) -> Sequence[Result]:
    axis = call.axis(call.attr_int("axis"), call.rank(0))
    return [call.emit.concat(call.values(), axis)]


def _split(call: Call) -> Sequence[Result]:
    axis = call.axis(call.attr_int("axis", 0), call.rank(0))
    size, parts = call.type(0).shape[axis], len(call.node.output)
    if call.has(1):
        sizes: tuple[Dim, ...] = call.dims(1)
    else:
        each = (size + (parts - 1)) // parts
        sizes = (*[each] * (parts - 1), size - (parts - 1) * each)
    return call.emit.node("split", [call.value(0)], {"sizes": sizes, "dim": axis})


def _gather(call: Call) -> Sequence[Result]:
    axis, shape = call.axis(call.attr_int("axis", 0), call.rank(0)), call.type(0).shape
    known = call.known(1)
    if known is not None and known.array.size == 1:
        place = known.dims()[0]
        if isinstance(place, int) and place < 0:
            place = shape[axis] + place
        chosen = call.one("select", [call.value(0)], {"dim": axis, "index": place})
        ones = (1,) * known.array.ndim
        return [call.emit.reshape(chosen, (*shape[:axis], *ones, *shape[axis + 1 :]))]
    x, index = call.value(0), call.value(1)
    if len(shape) == 2 and axis == 0 and x.is_weight and type_of(x).dtype.is_float:
        return [call.one("embed", [index, x])]
    wanted = type_of(index).shape
    flat = call.emit.reshape(_from_front(call, index, shape[axis], known), (product(wanted),))
    chosen = call.one("index_select", [x, flat], {"dim": axis})
    return [call.emit.reshape(chosen, (*shape[:axis], *wanted, *shape[axis + 1 :]))]


def _from_front(call: Call, index: Value, size: Dim, known: Known | None = None) -> Value:
    """An index without negative places, which count from the end."""
    if known is not None and all(isinstance(dim, int) and dim >= 0 for dim in known.dims()):
        return call.emit.cast(index, DType.I64)
    index = call.emit.cast(index, DType.I64)
    moved = call.one("add", [index], {"scalar": size})
    return call.one("where", [call.one("lt", [index], {"scalar": 0}), moved, index])


def _gather_elements(call: Call) -> Sequence[Result]:
    axis = call.axis(call.attr_int("axis", 0), call.rank(0))
    size, wanted = call.type(0).shape, call.type(1).shape
    for place, (mine, its) in enumerate(zip(wanted, size, strict=True)):
        smaller = mine == 1 or (isinstance(mine, int) and isinstance(its, int))
        if place != axis and not smaller:
            call.broadcast(((mine,), (its,)))
    index = _from_front(call, call.value(1), size[axis])
    return [call.one("gather", [call.value(0), index], {"dim": axis})]


def _flat_places(call: Call) -> tuple[Value, Dim, int]:
    """The rows that GatherND and ScatterND name, how many rows there are, and by how many axes."""
    shape, index = call.type(0).shape, call.type(1).shape
    depth = index[-1] if index else None
    if not isinstance(depth, int) or not 1 <= depth <= len(shape):
        raise call.refused(f"places of {depth} numbers in a tensor of {len(shape)} dimensions")
    count = product(index[:-1])
    total: Value | None = None
    for place in range(depth):
        column = call.one("select", [call.value(1)], {"dim": len(index) - 1, "index": place})
        column = _from_front(call, call.emit.reshape(column, (count,)), shape[place])
        inner = product(shape[place + 1 : depth])
        if inner != 1:
            column = call.one("mul", [column], {"scalar": inner})
        total = column if total is None else call.one("add", [total, column])
    if total is None:
        raise call.refused("it names no place")
    return total, product(shape[:depth]), depth


def _gather_nd(call: Call) -> Sequence[Result]:
    if call.attr_int("batch_dims", 0):
        raise call.refused("batch_dims is not 0")
    shape, wanted = call.type(0).shape, call.type(1).shape[:-1]
    places, rows, depth = _flat_places(call)
    table = call.emit.reshape(call.value(0), (rows, *shape[depth:]))
    chosen = call.one("index_select", [table, places], {"dim": 0})
    return [call.emit.reshape(chosen, (*wanted, *shape[depth:]))]


def _scatter_nd(call: Call) -> Sequence[Result]:
    if call.attr_str("reduction", "none") != "none":
        raise call.refused("it combines what it writes with what is there")
    shape, count = call.type(0).shape, product(call.type(1).shape[:-1])
    places, rows, depth = _flat_places(call)
    inner = product(shape[depth:])
    table = call.emit.reshape(call.value(0), (rows, inner))
    index = call.emit.expand(call.emit.reshape(places, (count, 1)), (count, inner))
    source = call.emit.reshape(call.value(2), (count, inner))
    done = call.one("scatter", [table, index, source], {"dim": 0})
    return [call.emit.reshape(done, shape)]


def _scatter_elements(call: Call) -> Sequence[Result]:
    if call.attr_str("reduction", "none") != "none":
        raise call.refused("it combines what it writes with what is there")
    axis = call.axis(call.attr_int("axis", 0), call.rank(0))
    index = _from_front(call, call.value(1), call.type(0).shape[axis])
    return [call.one("scatter", [call.value(0), index, call.value(2)], {"dim": axis})]


def _pad(call: Call) -> Sequence[Result]:
    x, shape = call.value(0), list(call.type(0).shape)
    axes = call.axes(3, len(shape)) if call.has(3) else tuple(range(len(shape)))
    pads, axes = call.dims(1), axes or ()
    by_axis = {axis: (pads[i], pads[len(axes) + i]) for i, axis in enumerate(axes)}
    pairs = [by_axis.get(axis, (0, 0)) for axis in reversed(range(len(shape)))]
    while pairs and pairs[-1] == (0, 0):
        pairs.pop()
    flat = tuple(dim for pair in pairs for dim in pair)
    mode = call.attr_str("mode", "constant")
    if mode == "constant":
        value = call.scalar(2) if call.has(2) else 0
        if value is None or isinstance(value, Expr):
            raise call.refused("what it pads with is not known")
        attrs: dict[str, Attr] = {"pads": flat, "value": value}
        return [call.one("pad_constant", [x], attrs) if flat else x]
    if mode not in ("reflect", "edge", "wrap"):
        raise call.refused(f"mode {mode!r}")
    for axis, pair in by_axis.items():
        shape[axis] = shape[axis] + pair[0] + pair[1]
    name = {"reflect": "reflect", "edge": "replicate", "wrap": "circular"}[mode]
    return [call.aten("pad", [x, flat, name], TensorType(type_of(x).dtype, tuple(shape)))]


def _range(call: Call) -> Sequence[Result]:
    ends = [call.scalar(index) for index in range(3)]
    if any(end is None for end in ends):
        raise call.refused("how long it is depends on data")
    dtype = call.type(0).dtype
    start, end, step = ends
    return [call.one("iota", [], {"start": start, "end": end, "step": step, "dtype": dtype})]


def _constant_of_shape(call: Call) -> Sequence[Result]:
    tensor = call.attr_tensor("value")
    value: Attr = 0.0
    dtype = DType.F32
    if tensor is not None:
        dtype, value = tensor.dtype, Known.of(tensor.load(), tensor.dtype).array.reshape(-1)[0]
    return [call.one("full", [], {"shape": call.dims(0), "dtype": dtype, "value": value})]


def _trilu(call: Call) -> Sequence[Result]:
    op = "triu" if call.attr_int("upper", 1) else "tril"
    diagonal = call.dims(1)[0] if call.has(1) else 0
    return [call.one(op, [call.value(0)], {"diagonal": diagonal})]


def _one_hot(call: Call) -> Sequence[Result]:
    depth, rank = call.ints(1)[0], call.rank(0)
    axis = call.axis(call.attr_int("axis", -1), rank + 1)
    index = _from_front(call, call.value(0), depth)
    hot = call.emit.cast(call.one("one_hot", [index], {"classes": depth}), DType.BOOL)
    order = list(range(rank))
    order.insert(axis, rank)
    off, on = (call.one("select", [call.value(2)], {"dim": 0, "index": place}) for place in (0, 1))
    return [call.one("where", [call.emit.permute(hot, order), on, off])]


def _depth_space(call: Call) -> Sequence[Result]:
    (batch, channels, height, width), block = call.type(0).shape, call.attr_int("blocksize")
    x, emit = call.value(0), call.emit
    if call.op == "SpaceToDepth":
        split = emit.reshape(x, (batch, channels, height // block, block, width // block, block))
        moved = emit.permute(split, (0, 3, 5, 1, 2, 4))
        deep = channels * block * block
        return [emit.reshape(moved, (batch, deep, height // block, width // block))]
    less = channels // (block * block)
    if call.attr_str("mode", "DCR") == "DCR":
        split = emit.reshape(x, (batch, block, block, less, height, width))
        moved = emit.permute(split, (0, 3, 4, 1, 5, 2))
    else:
        split = emit.reshape(x, (batch, less, block, block, height, width))
        moved = emit.permute(split, (0, 1, 4, 2, 5, 3))
    return [emit.reshape(moved, (batch, less, height * block, width * block))]


def _same(call: Call) -> Sequence[Result]:
    return [call.value(0)]


def _dropout(call: Call) -> Sequence[Result]:
    if call.has(2) and call.scalar(2) is not False:
        raise call.refused("it drops elements at random, as in training")
    if call.unused(1):
        return [call.value(0)]
    kept: dict[str, Attr] = {"shape": call.type(0).shape, "dtype": DType.BOOL, "value": True}
    return [call.value(0), call.one("full", [], kept)]


SHAPE: Mapping[str, Rule] = {
    "Identity": _same,
    "Dropout": _dropout,
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Transpose": _transpose,
    "Expand": _expand,
    "Tile": _tile,
    "Slice": _slice,
    "Concat": _concat,
    "Split": _split,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "GatherND": _gather_nd,
    "ScatterElements": _scatter_elements,
    "ScatterND": _scatter_nd,
    "Pad": _pad,
    "Range": _range,
    "ConstantOfShape": _constant_of_shape,
    "Trilu": _trilu,
    "OneHot": _one_hot,
    "DepthToSpace": _depth_space,
    "SpaceToDepth": _depth_space,
}

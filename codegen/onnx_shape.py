"""Operators that move, create and index data as ONNX nodes.

before:  %2: f32[T, 4, 16] = reshape(%1) {shape = [T, 4, 16]}
after:   reshape_0 = Reshape(v1, [-1, 4, 16])
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from graphopt.ir.dtype import DType
from graphopt.ir.graph import Node
from graphopt.ir.ops_spec import dim_of, dims_of, dtype_of, float_of, int_of, ints_of, scalar_of
from graphopt.ir.shape import Expr

from .onnx_writer import OnnxWriter, tensor_type

Rule = Callable[[OnnxWriter, Node], Sequence[str]]
# Element types in which ONNX counts.
_RANGES = frozenset({DType.F64, DType.F32, DType.I64, DType.I32, DType.I16})
_BEFORE_THE_FIRST = -(1 << 63)


def _reshape(w: OnnxWriter, node: Node) -> Sequence[str]:
    return [w.reshape(w.name_of(node.inputs[0]), dims_of(node.attrs, "shape"))]


def _permute(w: OnnxWriter, node: Node) -> Sequence[str]:
    return [w.transpose(w.name_of(node.inputs[0]), ints_of(node.attrs, "dims"))]


def _expand(w: OnnxWriter, node: Node) -> Sequence[str]:
    return [w.op("Expand", w.name_of(node.inputs[0]), w.shape(dims_of(node.attrs, "shape")))]


def _slice(w: OnnxWriter, node: Node) -> Sequence[str]:
    start, end = dim_of(node.attrs, "start"), dim_of(node.attrs, "end")
    axis, step = int_of(node.attrs, "dim"), int_of(node.attrs, "step")
    return [w.slice(w.name_of(node.inputs[0]), axis, start, end, step)]


def _select(w: OnnxWriter, node: Node) -> Sequence[str]:
    place = w.scalar(dim_of(node.attrs, "index"), DType.I64)
    return [w.op("Gather", w.name_of(node.inputs[0]), place, axis=int_of(node.attrs, "dim"))]


def _concat(w: OnnxWriter, node: Node) -> Sequence[str]:
    return [w.op("Concat", *map(w.name_of, node.inputs), axis=int_of(node.attrs, "dim"))]


def _split(w: OnnxWriter, node: Node) -> Sequence[str]:
    sizes = w.shape(dims_of(node.attrs, "sizes"))
    names = [w.fresh("split") for _ in node.outputs]
    return w.ops("Split", [w.name_of(node.inputs[0]), sizes], names, axis=int_of(node.attrs, "dim"))


def _pad(w: OnnxWriter, node: Node) -> Sequence[str]:
    x, pads = node.inputs[0], dims_of(node.attrs, "pads")
    if not pads:
        return [w.name_of(x)]
    rank, count = len(tensor_type(x).shape), len(pads) // 2
    before, after = pads[-2::-2], pads[-1::-2]
    axes = w.ints(*range(rank - count, rank))
    value = w.scalar(scalar_of(node.attrs, "value"), tensor_type(x).dtype)
    return [w.op("Pad", w.name_of(x), w.shape((*before, *after)), value, axes)]


def _flip(w: OnnxWriter, node: Node) -> Sequence[str]:
    dims = ints_of(node.attrs, "dims")
    if not dims:
        return [w.name_of(node.inputs[0])]
    backwards = w.ints(*[-1] * len(dims))
    ends = w.ints(*[_BEFORE_THE_FIRST] * len(dims))
    return [w.op("Slice", w.name_of(node.inputs[0]), backwards, ends, w.ints(*dims), backwards)]


def _roll(w: OnnxWriter, node: Node) -> Sequence[str]:
    x, shape = w.name_of(node.inputs[0]), tensor_type(node.inputs[0]).shape
    shifts = ints_of(node.attrs, "shifts")
    for shift, axis in zip(shifts, ints_of(node.attrs, "dims"), strict=True):
        if shape[axis] == 0:
            continue
        # Never modulo 0: in a dimension without elements the cut is at its end anyway.
        cut = w.op("Mod", w.ints(-shift), w.op("Max", w.size(shape[axis]), w.ints(1)))
        far, step = w.ints((1 << 63) - 1), w.ints(1)
        tail = w.op("Slice", x, cut, far, w.ints(axis), step)
        head = w.op("Slice", x, w.ints(0), cut, w.ints(axis), step)
        x = w.op("Concat", tail, head, axis=axis)
    return [x]


def _repeat_interleave(w: OnnxWriter, node: Node) -> Sequence[str]:
    x, axis = node.inputs[0], int_of(node.attrs, "dim")
    repeats = [1] * (len(tensor_type(x).shape) + 1)
    repeats[axis + 1] = int_of(node.attrs, "repeats")
    apart = w.op("Unsqueeze", w.name_of(x), w.ints(axis + 1))
    return [w.reshape(w.op("Tile", apart, w.ints(*repeats)), tensor_type(node.output).shape)]


def _full(w: OnnxWriter, node: Node) -> Sequence[str]:
    dtype, value = dtype_of(node.attrs, "dtype"), scalar_of(node.attrs, "value")
    return [w.op("Expand", w.scalar(value, dtype), w.shape(dims_of(node.attrs, "shape")))]


def _iota(w: OnnxWriter, node: Node) -> Sequence[str]:
    ends = [scalar_of(node.attrs, name) for name in ("start", "end", "step")]
    dtype = dtype_of(node.attrs, "dtype")
    whole = all(isinstance(end, int | Expr) for end in ends)
    inner = DType.I64 if whole else (dtype if dtype in _RANGES else DType.F32)
    if inner.is_float:
        ends = [end if isinstance(end, Expr) else float(end) for end in ends]
    return [w.cast(w.op("Range", *(w.scalar(end, inner) for end in ends)), dtype, inner)]


def _triangle(w: OnnxWriter, node: Node) -> Sequence[str]:
    diagonal = w.scalar(dim_of(node.attrs, "diagonal"), DType.I64)
    return [w.op("Trilu", w.name_of(node.inputs[0]), diagonal, upper=int(node.op == "triu"))]


def _gather(w: OnnxWriter, node: Node) -> Sequence[str]:
    x, index = map(w.name_of, node.inputs)
    return [w.op("GatherElements", x, index, axis=int_of(node.attrs, "dim"))]


def _scatter(w: OnnxWriter, node: Node) -> Sequence[str]:
    x, index, source = map(w.name_of, node.inputs)
    shapes = [tensor_type(value).shape for value in node.inputs[1:]]
    for axis, (wanted, there) in enumerate(zip(*shapes, strict=True)):
        if wanted != there:
            source = w.slice(source, axis, 0, wanted)
    return [w.op("ScatterElements", x, index, source, axis=int_of(node.attrs, "dim"))]


def _index_select(w: OnnxWriter, node: Node) -> Sequence[str]:
    x, index = map(w.name_of, node.inputs)
    return [w.op("Gather", x, index, axis=int_of(node.attrs, "dim"))]


def _embed(w: OnnxWriter, node: Node) -> Sequence[str]:
    ids, table = map(w.name_of, node.inputs)
    rows, scale = w.op("Gather", table, ids, axis=0), float_of(node.attrs, "scale")
    if scale == 1.0:
        return [rows]
    dtype = tensor_type(node.output).dtype
    inner = DType.F64 if dtype is DType.F64 else DType.F32
    scaled = w.op("Mul", w.cast(rows, inner, dtype), w.constant(scale, inner))
    return [w.cast(scaled, dtype, inner)]


def _one_hot(w: OnnxWriter, node: Node) -> Sequence[str]:
    classes = w.constant(int_of(node.attrs, "classes"), DType.I64)
    ids = w.op("Unsqueeze", w.name_of(node.inputs[0]), w.ints(0))  # it must have a dimension
    return [w.op("Squeeze", w.op("OneHot", ids, classes, w.ints(0, 1), axis=-1), w.ints(0))]


SHAPE: Mapping[str, Rule] = {
    "reshape": _reshape,
    "permute": _permute,
    "expand": _expand,
    "slice": _slice,
    "select": _select,
    "concat": _concat,
    "split": _split,
    "pad_constant": _pad,
    "flip": _flip,
    "roll": _roll,
    "repeat_interleave": _repeat_interleave,
    "full": _full,
    "iota": _iota,
    "tril": _triangle,
    "triu": _triangle,
    "gather": _gather,
    "scatter": _scatter,
    "index_select": _index_select,
    "embed": _embed,
    "one_hot": _one_hot,
}

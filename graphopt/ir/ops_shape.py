"""Operators that move, cut, join and create data, and compute nothing.

Positions (``start``, ``end``, ``index``) count from the front. Where a size is a symbol, a position
is taken to lie inside, as the tracer has found it to; the interpreter checks it on every run.
"""

from __future__ import annotations

import math

from graphopt.errors import VerifyError

from .dtype import DType
from .graph import Attr
from .ops_pointwise import broadcast, require_scalar
from .ops_spec import (
    Attrs,
    AttrSpec,
    OpSpec,
    Types,
    dim_of,
    dims_of,
    dtype_of,
    int_of,
    ints_of,
    no_cost,
    scalar_of,
    tensor,
    tensors,
)
from .shape import Dim, Expr, lower_bound, product
from .types import TensorType, nbytes, numel

_FAR = 1 << 62  # PyTorch writes "to the end" as a number this large


def _check_sizes(shape: tuple[Dim, ...]) -> None:
    for size in shape:
        if isinstance(size, int) and size < 0:
            raise VerifyError("a size is negative", got=size)


def _below(small: Dim, large: Dim) -> bool:
    """Whether ``small <= large`` is possible, as far as we know."""
    bound = lower_bound(small - large)
    return bound is None or bound <= 0


def _complete_reshape(types: Types, attrs: dict[str, Attr]) -> None:
    shape = attrs.get("shape")
    if isinstance(shape, tuple) and -1 in shape:
        x = tensor(types, 0)
        rest = product(size for size in shape if isinstance(size, int | Expr) and size != -1)
        if shape.count(-1) > 1 or rest == 0:
            raise VerifyError("the size that -1 stands for cannot be told", got=shape)
        missing = numel(x) // rest
        attrs["shape"] = tuple(missing if size == -1 else size for size in shape)


def _infer_reshape(types: Types, attrs: Attrs) -> Types:
    x, shape = tensor(types, 0), dims_of(attrs, "shape")
    _check_sizes(shape)
    if product(shape) != numel(x):
        raise VerifyError(
            "the shapes do not have equally many elements",
            got=f"{x} as [{', '.join(map(str, shape))}]",
            expected=f"{numel(x)} elements, not {product(shape)}",
        )
    return (TensorType(x.dtype, shape),)


def _infer_permute(types: Types, attrs: Attrs) -> Types:
    x, dims = tensor(types, 0), ints_of(attrs, "dims")
    if len(dims) != len(x.shape):
        raise VerifyError(
            "not every dimension is named", got=dims, expected=f"{len(x.shape)} of them"
        )
    return (TensorType(x.dtype, tuple(x.shape[dim] for dim in dims)),)


def _complete_expand(types: Types, attrs: dict[str, Attr]) -> None:
    shape = attrs.get("shape")
    if isinstance(shape, tuple):
        own = tensor(types, 0).shape
        offset = len(shape) - len(own)
        attrs["shape"] = tuple(
            own[i - offset] if size == -1 and i >= offset else size for i, size in enumerate(shape)
        )


def _infer_expand(types: Types, attrs: Attrs) -> Types:
    x, shape = tensor(types, 0), dims_of(attrs, "shape")
    _check_sizes(shape)
    if len(shape) < len(x.shape) or broadcast(x.shape, shape) != shape:
        raise VerifyError(f"{x} does not expand to [{', '.join(map(str, shape))}]", got=x)
    return (TensorType(x.dtype, shape),)


def _complete_slice(types: Types, attrs: dict[str, Attr]) -> None:
    dim = attrs.get("dim")
    if not isinstance(dim, int):
        return
    size = tensor(types, 0).shape[dim]
    for name, default in (("start", 0), ("end", size)):
        value = attrs.get(name)
        if value is None or (isinstance(value, int) and value >= _FAR):
            value = default if value is None else size
        if isinstance(value, int) and value < 0:
            value = size + value
        if isinstance(value, int) and isinstance(size, int):
            value = min(max(value, 0), size)
        attrs[name] = value
    start, end = attrs["start"], attrs["end"]
    if isinstance(start, int) and isinstance(end, int):
        attrs["end"] = max(start, end)


def _infer_slice(types: Types, attrs: Attrs) -> Types:
    x, dim, step = tensor(types, 0), int_of(attrs, "dim"), int_of(attrs, "step")
    start, end, size = dim_of(attrs, "start"), dim_of(attrs, "end"), x.shape[dim]
    if step < 1:
        raise VerifyError("the step is not positive", got=step)
    if not (_below(0, start) and _below(start, end) and _below(end, size)):
        raise VerifyError(
            "the slice is not inside", got=f"{start} to {end}", expected=f"0 to {size}"
        )
    length = (end - start + (step - 1)) // step
    return (TensorType(x.dtype, (*x.shape[:dim], length, *x.shape[dim + 1 :])),)


def _complete_select(types: Types, attrs: dict[str, Attr]) -> None:
    dim, index = attrs.get("dim"), attrs.get("index")
    if isinstance(dim, int) and isinstance(index, int) and index < 0:
        attrs["index"] = tensor(types, 0).shape[dim] + index


def _infer_select(types: Types, attrs: Attrs) -> Types:
    x, dim, index = tensor(types, 0), int_of(attrs, "dim"), dim_of(attrs, "index")
    size = x.shape[dim]
    if not (_below(0, index) and _below(index + 1, size)):
        raise VerifyError("the index is not inside", got=index, expected=f"0 to {size - 1}")
    return (TensorType(x.dtype, (*x.shape[:dim], *x.shape[dim + 1 :])),)


def _infer_concat(types: Types, attrs: Attrs) -> Types:
    parts, dim = tensors(types), int_of(attrs, "dim")
    first = parts[0]
    total: Dim = 0
    for position, part in enumerate(parts):
        others = [(*p.shape[:dim], *p.shape[dim + 1 :]) for p in (first, part)]
        if (
            part.dtype != first.dtype
            or len(part.shape) != len(first.shape)
            or others[0] != others[1]
        ):
            raise VerifyError(
                f"input {position} differs from input 0 in more than dimension {dim}",
                got=part,
                expected=first,
            )
        total = total + part.shape[dim]
    return (TensorType(first.dtype, (*first.shape[:dim], total, *first.shape[dim + 1 :])),)


def _infer_split(types: Types, attrs: Attrs) -> Types:
    x, sizes, dim = tensor(types, 0), dims_of(attrs, "sizes"), int_of(attrs, "dim")
    _check_sizes(sizes)
    if not sizes:
        raise VerifyError("there are no parts", got=x)
    total: Dim = 0
    for size in sizes:
        total = total + size
    if total != x.shape[dim]:
        raise VerifyError("the parts do not add up", got=total, expected=x.shape[dim])
    return tuple(TensorType(x.dtype, (*x.shape[:dim], size, *x.shape[dim + 1 :])) for size in sizes)


def _infer_pad(types: Types, attrs: Attrs) -> Types:
    x, pads = tensor(types, 0), dims_of(attrs, "pads")
    if len(pads) % 2 or len(pads) > 2 * len(x.shape):
        raise VerifyError("pads are not pairs for the last dimensions", got=pads)
    require_scalar(scalar_of(attrs, "value"), x.dtype)
    shape = list(x.shape)
    for i in range(len(pads) // 2):
        shape[-1 - i] = shape[-1 - i] + pads[2 * i] + pads[2 * i + 1]
    _check_sizes(tuple(shape))
    return (TensorType(x.dtype, tuple(shape)),)


def _same(types: Types, attrs: Attrs) -> Types:
    return (tensor(types, 0),)


def _infer_roll(types: Types, attrs: Attrs) -> Types:
    if len(ints_of(attrs, "shifts")) != len(ints_of(attrs, "dims")):
        raise VerifyError(
            "not as many shifts as dimensions", got=attrs["shifts"], expected=attrs["dims"]
        )
    return _same(types, attrs)


def _infer_repeat_interleave(types: Types, attrs: Attrs) -> Types:
    x, repeats, dim = tensor(types, 0), int_of(attrs, "repeats"), int_of(attrs, "dim")
    _check_sizes((repeats,))
    return (TensorType(x.dtype, (*x.shape[:dim], x.shape[dim] * repeats, *x.shape[dim + 1 :])),)


def _complete_value(dtype: DType | None, attrs: dict[str, Attr]) -> None:
    value = attrs.get("value")
    if dtype is None or not isinstance(value, bool | int | float):
        return
    if dtype.is_float:
        attrs["value"] = float(value)
    elif dtype is DType.BOOL:
        attrs["value"] = bool(value)
    elif isinstance(value, bool) or (isinstance(value, float) and value.is_integer()):
        attrs["value"] = int(value)


def _complete_pad(types: Types, attrs: dict[str, Attr]) -> None:
    _complete_value(tensor(types, 0).dtype, attrs)


def _complete_full(types: Types, attrs: dict[str, Attr]) -> None:
    dtype = attrs.get("dtype")
    _complete_value(dtype if isinstance(dtype, DType) else None, attrs)


def _infer_full(types: Types, attrs: Attrs) -> Types:
    shape, dtype = dims_of(attrs, "shape"), dtype_of(attrs, "dtype")
    _check_sizes(shape)
    require_scalar(scalar_of(attrs, "value"), dtype)
    return (TensorType(dtype, shape),)


def _infer_iota(types: Types, attrs: Attrs) -> Types:
    start, end, step = (scalar_of(attrs, name) for name in ("start", "end", "step"))
    if any(isinstance(value, bool) for value in (start, end, step)) or step == 0:
        raise VerifyError("start, end and step do not make a range", got=f"{start}, {end}, {step}")
    length: Dim
    if isinstance(start, float) or isinstance(end, float) or isinstance(step, float):
        if isinstance(start, Expr) or isinstance(end, Expr) or isinstance(step, Expr):
            raise VerifyError("a range mixes fractions and sizes", got=f"{start}, {end}, {step}")
        length = math.ceil((end - start) / step)
    elif isinstance(step, Expr):
        raise VerifyError("the step of a range is not a number", got=step)
    else:
        length = (end - start + (step - (1 if step > 0 else -1))) // step
    if isinstance(length, int) and length < 0:
        raise VerifyError("the range ends before it starts", got=f"{start}, {end}, {step}")
    return (TensorType(dtype_of(attrs, "dtype"), (length,)),)


def _infer_triangle(types: Types, attrs: Attrs) -> Types:
    x = tensor(types, 0)
    if len(x.shape) < 2:
        raise VerifyError("a triangle needs two dimensions", got=x)
    return (x,)


def _writes_only(inputs: Types, attrs: Attrs, outputs: Types) -> Dim:
    return nbytes(outputs[0])


def _twice_output(inputs: Types, attrs: Attrs, outputs: Types) -> Dim:
    return 2 * nbytes(outputs[0])


_DIM = AttrSpec("dim", "axis")
_ONE = (1, 1)

SHAPE: tuple[OpSpec, ...] = (
    OpSpec(
        "reshape",
        "The same elements in the same order under another shape.",
        _ONE,
        _infer_reshape,
        bytes=no_cost,
        view=True,
        attrs=(AttrSpec("shape", "dims"),),
        complete=_complete_reshape,
    ),
    OpSpec(
        "permute",
        "The dimensions in another order.",
        _ONE,
        _infer_permute,
        bytes=no_cost,
        view=True,
        attrs=(AttrSpec("dims", "axes"),),
    ),
    OpSpec(
        "expand",
        "Repeated along dimensions of size 1 and new leading ones.",
        _ONE,
        _infer_expand,
        bytes=no_cost,
        view=True,
        attrs=(AttrSpec("shape", "dims"),),
        complete=_complete_expand,
    ),
    OpSpec(
        "slice",
        "Elements start, start + step, ... before end along dim.",
        _ONE,
        _infer_slice,
        bytes=no_cost,
        view=True,
        complete=_complete_slice,
        attrs=(_DIM, AttrSpec("start", "dim"), AttrSpec("end", "dim"), AttrSpec("step", "int", 1)),
    ),
    OpSpec(
        "select",
        "The slice at index along dim, which disappears.",
        _ONE,
        _infer_select,
        bytes=no_cost,
        view=True,
        attrs=(_DIM, AttrSpec("index", "dim")),
        complete=_complete_select,
    ),
    OpSpec(
        "concat",
        "The inputs one after the other along dim.",
        (1, None),
        _infer_concat,
        attrs=(_DIM,),
    ),
    OpSpec(
        "split",
        "Consecutive parts of the given sizes along dim.",
        _ONE,
        _infer_split,
        bytes=no_cost,
        view=True,
        attrs=(AttrSpec("sizes", "dims"), _DIM),
    ),
    OpSpec(
        "pad_constant",
        "Surrounded by a value; pads are (before, after), last dimension first.",
        _ONE,
        _infer_pad,
        attrs=(AttrSpec("pads", "dims"), AttrSpec("value", "scalar", 0)),
        complete=_complete_pad,
    ),
    OpSpec("flip", "In reverse order along dims.", _ONE, _same, attrs=(AttrSpec("dims", "axes"),)),
    OpSpec(
        "roll",
        "Moved along dims by shifts; what leaves at one end enters at the other.",
        _ONE,
        _infer_roll,
        attrs=(AttrSpec("shifts", "ints"), AttrSpec("dims", "axes")),
    ),
    OpSpec(
        "repeat_interleave",
        "Each element `repeats` times in a row along dim.",
        _ONE,
        _infer_repeat_interleave,
        attrs=(AttrSpec("repeats", "int"), _DIM),
    ),
    OpSpec(
        "full",
        "One value everywhere.",
        (0, 0),
        _infer_full,
        bytes=_writes_only,
        attrs=(AttrSpec("shape", "dims"), AttrSpec("dtype", "dtype"), AttrSpec("value", "scalar")),
        complete=_complete_full,
    ),
    OpSpec(
        "iota",
        "start, start + step, ... before end.",
        (0, 0),
        _infer_iota,
        bytes=_writes_only,
        attrs=(
            AttrSpec("start", "scalar", 0),
            AttrSpec("end", "scalar"),
            AttrSpec("step", "scalar", 1),
            AttrSpec("dtype", "dtype", DType.I64),
        ),
    ),
    OpSpec(
        "tril",
        "Zero above the diagonal of the last two dimensions.",
        _ONE,
        _infer_triangle,
        bytes=_twice_output,
        attrs=(AttrSpec("diagonal", "dim", 0),),
    ),
    OpSpec(
        "triu",
        "Zero below the diagonal of the last two dimensions.",
        _ONE,
        _infer_triangle,
        bytes=_twice_output,
        attrs=(AttrSpec("diagonal", "dim", 0),),
    ),
)

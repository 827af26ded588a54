"""Computes nodes of an ONNX model whose results are known before it runs.

before:  Gather(Shape(x), 0)
after:   the size N

Constants and shapes are known from the start; what only depends on them is, too, unless it asks
something of a size that has no one answer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from graphopt.ir.dtype import DType
from graphopt.ir.graph import Value
from graphopt.ir.shape import Expr, product
from graphopt.ir.types import TensorType

from .onnx_call import Call, Result
from .onnx_file import element_type
from .onnx_known import (
    BINARY,
    COMPARISONS,
    MAX_ELEMENTS,
    UNARY,
    Element,
    Known,
    Undecided,
    cast,
    each,
    joined,
)
from .onnx_shape import bounds, reshaped, squeezed, unsqueezed

_Fold = Callable[[Call, Sequence[Known]], "Known | Sequence[Known]"]


def fold(call: Call) -> Sequence[Result] | None:
    """The results of a node, if they are known."""
    always = _ALWAYS.get(call.op)
    if always is not None:
        found = always(call)
        if found is not None:
            return [found]
    rule = _RULES.get(call.op)
    if rule is None:
        return None
    operands = []
    for index in range(call.count):
        known = call.known(index) if call.has(index) else Known.of([], DType.I64)
        if known is None:
            return None
        operands.append(known)
    try:
        result = rule(call, operands)
    except Undecided:
        return None
    results = [result] if isinstance(result, Known) else list(result)
    return results if all(one.array.size <= MAX_ELEMENTS for one in results) else None


# -- what needs no elements of its inputs --------------------------------------------------------


def _constant(call: Call) -> Result | None:
    if call.has_attr("value"):
        tensor = call.attr_tensor("value")
        if tensor is None:
            return None
        single = tensor.elements == 1 or not tensor.dtype.is_float
        if single and tensor.elements <= MAX_ELEMENTS and tensor.dtype.nbytes > 1:
            array: Any = tensor.load()
            if tensor.dtype is DType.BF16:
                array = (np.asarray(array, np.uint32) << 16).view(np.float32)
            return Known.of(array, tensor.dtype)
        if tensor.dtype is DType.BOOL and tensor.elements <= MAX_ELEMENTS:
            return Known.of(tensor.load(), tensor.dtype)
        name = call.node.output[0]
        call.scope.constants[name] = tensor
        value: Value = call.emit.builder.weight(name, TensorType(tensor.dtype, tensor.shape))
        return value
    if call.has_attr("value_int"):
        return Known.of(call.attr_int("value_int"), DType.I64)
    if call.has_attr("value_ints"):
        return Known.of(list(call.attr_ints("value_ints") or ()), DType.I64)
    if call.has_attr("value_float"):
        return Known.of(call.attr_float("value_float"), DType.F32)
    floats = call.attr_floats("value_floats")
    if floats is None:
        raise call.refused("its value is no tensor of numbers")
    known = Known.of(list(floats), DType.F32)
    return known if len(floats) == 1 else call.scope.made(call.node.output[0], known)


def _shape(call: Call) -> Result | None:
    dims = call.type(0).shape
    end = call.attr_int("end", len(dims))
    return Known.of(list(dims[call.attr_int("start", 0) : end]), DType.I64)


def _size(call: Call) -> Result | None:
    return Known.of(product(call.type(0).shape), DType.I64)


_ALWAYS: Mapping[str, Callable[[Call], Result | None]] = {
    "Constant": _constant,
    "Shape": _shape,
    "Size": _size,
}


# -- what does ------------------------------------------------------------------------------------


def _unary(call: Call, x: Sequence[Known]) -> Known:
    return each(UNARY[call.op], x[0], dtype=x[0].dtype)


def _binary(call: Call, x: Sequence[Known]) -> Known:
    if call.op == "Mod" and call.attr_int("fmod", 0):
        raise Undecided
    total = x[0]
    for operand in x[1:]:
        total = each(BINARY[call.op], total, operand, dtype=x[0].dtype)
    return total


def _comparison(call: Call, x: Sequence[Known]) -> Known:
    return each(COMPARISONS[call.op], x[0], x[1], dtype=DType.BOOL)


def _where(call: Call, x: Sequence[Known]) -> Known:
    return each(lambda chosen, a, b: a if chosen else b, *x, dtype=x[1].dtype)


def _cast(call: Call, x: Sequence[Known]) -> Known:
    return cast(x[0], element_type(call.attr_int("to"), call.where))


def _identity(call: Call, x: Sequence[Known]) -> Known:
    return x[0]


def _whole(shape: Sequence[object]) -> tuple[int, ...]:
    if not all(isinstance(dim, int) and 0 <= dim <= MAX_ELEMENTS for dim in shape):
        raise Undecided
    return tuple(dim for dim in shape if isinstance(dim, int))


def _reshape(call: Call, x: Sequence[Known]) -> Known:
    return Known(x[0].array.reshape(_whole(reshaped(call, x[1].dims()))), x[0].dtype)


def _squeeze(call: Call, x: Sequence[Known]) -> Known:
    return Known(x[0].array.reshape(_whole(squeezed(call, x[0].array.shape))), x[0].dtype)


def _unsqueeze(call: Call, x: Sequence[Known]) -> Known:
    return Known(x[0].array.reshape(_whole(unsqueezed(call, x[0].array.shape))), x[0].dtype)


def _concat(call: Call, x: Sequence[Known]) -> Known:
    return joined(x, call.attr_int("axis"))


def _transpose(call: Call, x: Sequence[Known]) -> Known:
    return Known(x[0].array.transpose(call.attr_ints("perm")), x[0].dtype)


def _gather(call: Call, x: Sequence[Known]) -> Known:
    axis = call.axis(call.attr_int("axis", 0), x[0].array.ndim)
    if not x[1].numbers:
        raise Undecided
    taken = np.take(x[0].array, x[1].array.astype(np.int64), axis)
    return (
        Known(taken, x[0].dtype) if isinstance(taken, np.ndarray) else Known.of(taken, x[0].dtype)
    )


def _slice(call: Call, x: Sequence[Known]) -> Known:
    array, numbers = x[0].array, [_integers(one) for one in x[1:]]
    starts, ends = numbers[:2]
    axes = numbers[2] if call.has(3) else list(range(len(starts)))
    steps = numbers[3] if call.has(4) else [1] * len(starts)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        if step < 1:
            raise Undecided
        first, last = bounds(call, array.shape[axis], start, end)
        where = [slice(None)] * array.ndim
        where[axis] = slice(*_integers(Known.of([first, last, step], DType.I64)))
        array = array[tuple(where)]
    return Known(array, x[0].dtype)


def _integers(known: Known) -> list[int]:
    if not known.numbers:
        raise Undecided
    return [int(str(dim)) for dim in known.dims()]


def _expand(call: Call, x: Sequence[Known]) -> Known:
    shape = _whole(x[1].dims())
    if int(np.prod(shape, dtype=object)) > MAX_ELEMENTS:
        raise Undecided
    both = np.broadcast_shapes(x[0].array.shape, shape)
    return Known(np.broadcast_to(x[0].array, both), x[0].dtype)


def _constant_of_shape(call: Call, x: Sequence[Known]) -> Known:
    shape, tensor = _whole(x[0].dims()), call.attr_tensor("value")
    if int(np.prod(shape, dtype=object)) > MAX_ELEMENTS:
        raise Undecided
    dtype, value = DType.F32, Known.of(0.0, DType.F32)
    if tensor is not None:
        dtype, value = tensor.dtype, Known.of(tensor.load(), tensor.dtype)
    if dtype.is_float and int(np.prod(shape, dtype=object)) != 1:
        raise Undecided
    return Known(np.broadcast_to(value.array.reshape(()), shape), dtype)


def _range(call: Call, x: Sequence[Known]) -> Known:
    ends = [one.array.reshape(-1)[0] for one in x]
    if not all(isinstance(end, int) for end in ends) or ends[2] == 0:
        raise Undecided
    found = range(*ends)
    if len(found) > MAX_ELEMENTS:
        raise Undecided
    return Known.of(list(found), x[0].dtype)


def _split(call: Call, x: Sequence[Known]) -> Sequence[Known]:
    axis = call.axis(call.attr_int("axis", 0), x[0].array.ndim)
    parts = len(call.node.output)
    size = x[0].array.shape[axis]
    sizes = _integers(x[1]) if call.has(1) else [-(-size // parts)] * (parts - 1)
    cuts = np.cumsum(sizes)[: parts - 1]
    return [Known(part, x[0].dtype) for part in np.split(x[0].array, cuts, axis)]


def _reduce(function: Callable[[Any, Any], Element]) -> _Fold:
    def run(call: Call, x: Sequence[Known]) -> Known:
        array = x[0].array
        axes = call.axes(1, array.ndim)
        if axes is not None and set(axes) != set(range(array.ndim)):
            raise Undecided
        total: Any = None
        for element in array.flat:
            if total is not None and isinstance(element, Expr | float) and isinstance(total, float):
                raise Undecided
            total = element if total is None else function(total, element)
        if total is None:
            raise Undecided
        keep = call.attr_int("keepdims", 1)
        return Known(
            Known.of(total, x[0].dtype).array.reshape((1,) * array.ndim * keep), x[0].dtype
        )

    return run


_RULES: Mapping[str, _Fold] = {
    **dict.fromkeys(UNARY, _unary),
    **dict.fromkeys(BINARY, _binary),
    **dict.fromkeys(COMPARISONS, _comparison),
    "Where": _where,
    "Cast": _cast,
    "Identity": _identity,
    "Reshape": _reshape,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Concat": _concat,
    "Transpose": _transpose,
    "Gather": _gather,
    "Slice": _slice,
    "Expand": _expand,
    "ConstantOfShape": _constant_of_shape,
    "Range": _range,
    "Split": _split,
    "ReduceProd": _reduce(BINARY["Mul"]),
    "ReduceSum": _reduce(BINARY["Add"]),
    "ReduceMax": _reduce(BINARY["Max"]),
    "ReduceMin": _reduce(BINARY["Min"]),
}

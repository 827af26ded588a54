"""Weights of a few bits: what rounding a matrix gives, and the layers that read what it gave.

A matrix ``w[N, K]``, or one for each expert, becomes integers ``q[N, K]`` of ``bits`` bits and one
scale for each row and ``group`` columns (the last group may be narrower): w is about q times scale.
The integers are i8 here also where there are only four bits of them; how they lie in memory is the
kernels' concern.

In fp8 a matrix becomes numbers of f8e4m3, with one scale in f32 for each block of ``block`` rows
and ``block`` columns (the last ones may be narrower), or one for all of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from graphopt.errors import VerifyError

from .dtype import DType
from .ops_nn import EXPERT_ATTRS, expert_sizes, infer_experts
from .ops_pointwise import require_class, require_rank, require_shape
from .ops_spec import (
    Attrs,
    AttrSpec,
    OpSpec,
    Types,
    dtype_of,
    int_of,
    tensor,
    tensors,
)
from .shape import Dim, dim_min, product
from .types import TensorType, nbytes, numel

# What the greatest number of a group may become, for each number of bits: the scale is the greatest
# number over one of these.
DIVISORS: Mapping[int, tuple[float, ...]] = MappingProxyType(
    {8: (127.0,), 4: (-8.0, -8.5, -9.0, -7.5, -7.0)}
)


def _infer_quantize(types: Types, attrs: Attrs) -> Types:
    (w,) = tensors(types)
    require_class(w, "float", 0)
    if len(w.shape) < 2:
        raise VerifyError("the weight has no rows and columns", got=w, expected="two dimensions")
    return (
        TensorType(DType.I8, w.shape),
        TensorType(dtype_of(attrs, "dtype"), _scales_shape(w, attrs)),
    )


def _scales_shape(matrix: TensorType, attrs: Attrs) -> tuple[Dim, ...]:
    bits, group = int_of(attrs, "bits"), int_of(attrs, "group")
    if bits not in DIVISORS:
        raise VerifyError("no such number of bits", got=bits, expected="8 or 4")
    if group < 1:
        raise VerifyError("a group has no columns", got=group)
    *rows, columns = matrix.shape
    return (*rows, (columns + group - 1) // group)


def _check_matrix(types: Types, first: int, attrs: Attrs, rank: int = 2) -> TensorType:
    """Inputs ``first`` and the next, which are a rounded matrix and its scales: the matrix."""
    matrix, scales = tensor(types, first), tensor(types, first + 1)
    require_rank(matrix, rank, first)
    if matrix.dtype is not DType.I8:
        raise VerifyError(f"input {first} is not i8", got=matrix)
    require_class(scales, "float", first + 1)
    require_shape(scales, _scales_shape(matrix, attrs), first + 1)
    return matrix


def _infer_linear(types: Types, attrs: Attrs) -> Types:
    operands = tensors(types)
    matrix = _check_matrix(types, 1, attrs)
    require_class(operands[0], "float", 0)
    return _infer_product(operands, matrix)


def _infer_quantized_experts(types: Types, attrs: Attrs) -> Types:
    _check_matrix(types, 3, attrs, rank=3)
    _check_matrix(types, 5, attrs, rank=3)
    return infer_experts(*_as_experts(types, attrs))


def _as_experts(types: Types, attrs: Attrs) -> tuple[Types, Attrs]:
    """The same layer as ``moe_experts`` has it: weights of the type of x."""
    x = tensor(types, 0)
    layers = (TensorType(x.dtype, tensor(types, place).shape) for place in (3, 5))
    return (*types[:3], *layers, *types[7:]), {**attrs, "transposed": False}


def _infer_embed(types: Types, attrs: Attrs) -> Types:
    ids, matrix = tensor(types, 0), _check_matrix(types, 1, attrs)
    if ids.dtype not in (DType.I64, DType.I32):
        raise VerifyError("input 0 is not an index", got=ids, expected="i64 or i32")
    dtype = dtype_of(attrs, "dtype")
    if not dtype.is_float:
        raise VerifyError("the rows are no floats", got=dtype)
    return (TensorType(dtype, (*ids.shape, matrix.shape[1])),)


def _fp8_shape(matrix: TensorType, attrs: Attrs) -> tuple[Dim, ...]:
    """Sizes of the scales of a matrix in fp8."""
    block = int_of(attrs, "block")
    if block < 0:
        raise VerifyError("a block has no columns", got=block)
    return tuple((size + block - 1) // block for size in matrix.shape) if block else ()


def _infer_fp8_weight(types: Types, attrs: Attrs) -> Types:
    (w,) = tensors(types)
    require_class(w, "float", 0)
    require_rank(w, 2, 0)
    dtypes = [dtype_of(attrs, name) for name in ("dtype", "scales")]
    if not all(dtype.is_float for dtype in dtypes):
        raise VerifyError("numbers of a weight in fp8 are no floats", got=dtypes)
    return TensorType(dtypes[0], w.shape), TensorType(dtypes[1], _fp8_shape(w, attrs))


def _infer_fp8_linear(types: Types, attrs: Attrs) -> Types:
    operands = tensors(types)
    matrix = operands[1]
    if not matrix.dtype.is_float:
        raise VerifyError("input 1 is not in fp8", got=matrix)
    require_class(operands[0], "float", 0)
    require_class(operands[2], "float", 2)
    require_rank(matrix, 2, 1)
    require_shape(operands[2], _fp8_shape(matrix, attrs), 2)
    return _infer_product(operands, matrix)


def _infer_product(operands: Sequence[TensorType], matrix: TensorType) -> Types:
    """The type of a product with a matrix whose scales are operand 2, and its bias operand 3."""
    x = operands[0]
    if not x.shape or x.shape[-1] != matrix.shape[1]:
        raise VerifyError("the last size of the input is not the weight's", got=f"{x} and {matrix}")
    if len(operands) == 4:
        require_shape(operands[3], (matrix.shape[0],), 3)
        if operands[3].dtype != x.dtype:
            raise VerifyError("the bias has another element type", got=f"{x} and {operands[3]}")
    return (TensorType(x.dtype, (*x.shape[:-1], matrix.shape[0])),)


def _quantize_flops(inputs: Types, attrs: Attrs, outputs: Types) -> Dim:
    return 4 * numel(tensor(inputs, 0))


def _linear_flops(inputs: Types, attrs: Attrs, outputs: Types) -> Dim:
    out = numel(tensor(outputs, 0))
    bias = out if len(inputs) == 4 else 0
    return 2 * out * tensor(inputs, 1).shape[1] + bias


def _embed_flops(inputs: Types, attrs: Attrs, outputs: Types) -> Dim:
    return 2 * numel(tensor(outputs, 0))


def _packed_bytes(matrix: TensorType, attrs: Attrs) -> Dim:
    """Bytes of a rounded matrix without its scales, two integers of four bits in each."""
    *rows, columns = matrix.shape
    return product((*rows, (columns * int_of(attrs, "bits") + 7) // 8))


def _quantize_bytes(inputs: Types, attrs: Attrs, outputs: Types) -> Dim:
    written = _packed_bytes(tensor(outputs, 0), attrs) + nbytes(outputs[1])
    return nbytes(inputs[0]) + written


def _linear_bytes(inputs: Types, attrs: Attrs, outputs: Types) -> Dim:
    total = nbytes(inputs[0]) + nbytes(outputs[0]) + _packed_bytes(tensor(inputs, 1), attrs)
    for type_ in inputs[2:]:
        total = total + nbytes(type_)
    return total


def _experts_flops(inputs: Types, attrs: Attrs, outputs: Types) -> Dim:
    _, hidden, wide, narrow = expert_sizes(*_as_experts(inputs, attrs))
    return 2 * numel(tensor(inputs, 1)) * hidden * (wide + narrow)


def _experts_bytes(inputs: Types, attrs: Attrs, outputs: Types) -> Dim:
    used = dim_min(tensor(inputs, 3).shape[0], numel(tensor(inputs, 1)))
    total = sum(map(nbytes, inputs[:3]), nbytes(outputs[0]))
    for place, type_ in enumerate(tensors(inputs)[3:], 3):
        one = TensorType(type_.dtype, type_.shape[1:])
        total = total + used * (_packed_bytes(one, attrs) if place in (3, 5) else nbytes(one))
    return total


def _embed_bytes(inputs: Types, attrs: Attrs, outputs: Types) -> Dim:
    matrix, scales = tensor(inputs, 1), tensor(inputs, 2)
    row = TensorType(matrix.dtype, (1, matrix.shape[1]))
    each = _packed_bytes(row, attrs) + product((scales.shape[1], scales.dtype.nbytes))
    ids = tensor(inputs, 0)
    return nbytes(ids) + product((numel(ids), each)) + nbytes(outputs[0])


_BITS, _GROUP = AttrSpec("bits", "int"), AttrSpec("group", "int")
_BLOCK = AttrSpec("block", "int")

QUANT: tuple[OpSpec, ...] = (
    OpSpec(
        "quantize_weight",
        "quantize_weight(w[.., N, K]): integers q, of `bits` bits and as i8, and scales s, for "
        "each row and each `group` columns. With m the element of greatest magnitude of the group, "
        "s is m / d rounded to f16, q is w / s rounded (halves to even) and clamped; of the "
        "divisors d (127 for 8 bits; -8, -8.5, -9, -7.5 and -7 for 4) the first with the least "
        "squared error. Zeros have scale 0; a group with a number that is not finite has NaN.",
        (1, 1),
        _infer_quantize,
        flops=_quantize_flops,
        bytes=_quantize_bytes,
        attrs=(_BITS, _GROUP, AttrSpec("dtype", "dtype", DType.F16)),
    ),
    OpSpec(
        "quantized_linear",
        "quantized_linear(x, q, s [, b]): x' times (q s) transposed, plus b, accumulated in f32; "
        "x' is x with each row rounded to 127 steps either way by groups of the same columns: with "
        "a the greatest magnitude, x' is round(x 127 / a) a / 127. A group below 2^-100 is zeros; "
        "one with a number that is not finite makes its row's results NaN. With `weight_only` only "
        "the weight is rounded, and x' is x itself.",
        (3, 4),
        _infer_linear,
        flops=_linear_flops,
        bytes=_linear_bytes,
        attrs=(_BITS, _GROUP, AttrSpec("weight_only", "bool", False)),
    ),
    OpSpec(
        "quantized_embed",
        "quantized_embed(ids, q, s): the row of q s that each id names, times scale, rounded once; "
        "reads only those rows.",
        (3, 3),
        _infer_embed,
        flops=_embed_flops,
        bytes=_embed_bytes,
        attrs=(_BITS, _GROUP, AttrSpec("dtype", "dtype"), AttrSpec("scale", "float", 1.0)),
    ),
    OpSpec(
        "fp8_weight",
        "fp8_weight(w[N, K]): numbers q of f8e4m3 and scales s, for each `block` rows and columns, "
        "or one scale of no dimensions if `block` is 0. With a the greatest magnitude of the "
        "block, s is a / 448 and q is w 448 / a rounded (halves to even). A block below 2^-100 is "
        "zeros and has scale 0; one with a number that is not finite has scale NaN.",
        (1, 1),
        _infer_fp8_weight,
        flops=_quantize_flops,
        attrs=(
            _BLOCK,
            AttrSpec("dtype", "dtype", DType.F8E4M3),
            AttrSpec("scales", "dtype", DType.F32),
        ),
    ),
    OpSpec(
        "fp8_linear",
        "fp8_linear(x, q, s [, b]): x' times (q s) transposed, plus b, accumulated in f32; x' is x "
        "with each row rounded to f8e4m3 by groups of `block` columns, or as a whole if that is 0: "
        "with a the greatest magnitude, x' is round(x 448 / a) a / 448. A group below 2^-100 is "
        "zeros; one with a number that is not finite makes its row's results NaN.",
        (3, 4),
        _infer_fp8_linear,
        flops=_linear_flops,
        attrs=(_BLOCK,),
    ),
    OpSpec(
        "quantized_experts",
        "quantized_experts(x, ids, weights, q1, s1, q2, s2 [, b1, b2]): moe_experts with weights "
        "of a few bits, q1[E, N, H] and q2[E, H, F]; x, and what the second layer reads, are "
        "rounded as quantized_linear rounds rows.",
        (7, 9),
        _infer_quantized_experts,
        flops=_experts_flops,
        bytes=_experts_bytes,
        attrs=(*EXPERT_ATTRS, _BITS, _GROUP),
    ),
)

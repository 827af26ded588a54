"""The layers that models are made of: linear maps, norms, convolution, experts."""

from __future__ import annotations

from graphopt.errors import VerifyError

from .dtype import DType
from .ops_pointwise import (
    ACTIVATIONS,
    broadcast,
    require_class,
    require_rank,
    require_shape,
    same_dtype,
)
from .ops_spec import (
    Attrs,
    AttrSpec,
    OpSpec,
    Types,
    bool_of,
    float_of,
    int_of,
    str_of,
    tensor,
    tensors,
)
from .shape import Dim, dim_min, product
from .types import TensorType, nbytes, numel

# How an expert makes F numbers of the 2F that its first layer gives; a is the activation.
#   concat                a(gate) * up, gate before up
#   interleaved           a(gate) * up, gate and up in turns
#   concat_limited        a(min(gate, limit)) * clamp(up, -limit, limit)
#   concat_clamped        g * sigmoid(alpha * g) * (clamp(up, -limit, limit) + 1),
#                         where g = min(gate, limit)
#   interleaved_clamped   the same, gate and up in turns
EXPERT_FORMS = (
    "concat",
    "interleaved",
    "concat_limited",
    "concat_clamped",
    "interleaved_clamped",
)
# What a layer of experts is, whatever its weights are.
EXPERT_ATTRS = (
    AttrSpec("activation", "str", "silu", choices=tuple(ACTIVATIONS)),
    AttrSpec("form", "str", "concat", choices=EXPERT_FORMS),
    AttrSpec("limit", "float", 0.0),
    AttrSpec("alpha", "float", 0.0),
    AttrSpec("gated", "bool", True),
    AttrSpec("bias", "bool", False),
)


def _infer_linear(types: Types, attrs: Attrs) -> Types:
    operands = tensors(types)
    same_dtype(operands)
    x, weight = operands[:2]
    require_rank(weight, 2, 1)
    if not x.shape or x.shape[-1] != weight.shape[1]:
        raise VerifyError("the last size of the input is not the weight's", got=f"{x} and {weight}")
    if len(operands) == 3:
        require_shape(operands[2], (weight.shape[0],), 2)
    return (TensorType(x.dtype, (*x.shape[:-1], weight.shape[0])),)


def _linear_flops(inputs: Types, attrs: Attrs, outputs: Types) -> Dim:
    out = numel(tensor(outputs, 0))
    bias = out if len(inputs) == 3 else 0
    return 2 * out * tensor(inputs, 1).shape[1] + bias


def _infer_matmul(types: Types, attrs: Attrs) -> Types:
    a, b = tensors(types)
    same_dtype((a, b))
    if not a.shape or not b.shape:
        raise VerifyError("a product needs at least one dimension", got=f"{a} and {b}")
    left = a.shape if len(a.shape) > 1 else (1, *a.shape)
    right = b.shape if len(b.shape) > 1 else (*b.shape, 1)
    if left[-1] != right[-2]:
        raise VerifyError(f"inner sizes {left[-1]} and {right[-2]} differ", got=f"{a} and {b}")
    rows = (left[-2],) if len(a.shape) > 1 else ()
    columns = (right[-1],) if len(b.shape) > 1 else ()
    return (TensorType(a.dtype, (*broadcast(left[:-2], right[:-2]), *rows, *columns)),)


def _matmul_flops(inputs: Types, attrs: Attrs, outputs: Types) -> Dim:
    return 2 * numel(tensor(outputs, 0)) * tensor(inputs, 0).shape[-1]


def _infer_rms_norm(types: Types, attrs: Attrs) -> Types:
    operands = tensors(types)
    same_dtype(operands)
    x = operands[0]
    if not x.shape:
        raise VerifyError("a norm needs at least one dimension", got=x)
    if len(operands) == 2:
        require_shape(operands[1], (x.shape[-1],), 1)
    return (x,)


def _infer_layer_norm(types: Types, attrs: Attrs) -> Types:
    operands = tensors(types)
    same_dtype(operands)
    x, axes = operands[0], int_of(attrs, "axes")
    if not 1 <= axes <= len(x.shape):
        raise VerifyError("the norm is not over trailing dimensions", got=axes, expected=x)
    expected = 1 + bool_of(attrs, "has_weight") + bool_of(attrs, "has_bias")
    if len(operands) != expected:
        raise VerifyError(
            "inputs do not match has_weight and has_bias", got=len(operands), expected=expected
        )
    for position, type_ in enumerate(operands[1:], 1):
        require_shape(type_, x.shape[-axes:], position)
    return (x,)


def _norm_flops(inputs: Types, attrs: Attrs, outputs: Types) -> Dim:
    return (4 + 2 * (len(inputs) - 1)) * numel(tensor(inputs, 0))


def _infer_conv1d(types: Types, attrs: Attrs) -> Types:
    operands = tensors(types)
    same_dtype(operands)
    x, weight = operands[:2]
    require_rank(x, 3, 0)
    require_rank(weight, 3, 1)
    stride, padding, dilation, groups = (
        int_of(attrs, name) for name in ("stride", "padding", "dilation", "groups")
    )
    if min(stride, dilation, groups) < 1 or padding < 0:
        raise VerifyError("stride, dilation and groups are not all positive", got=dict(attrs))
    (batch, channels, length), (out, each, width) = x.shape, weight.shape
    if channels != each * groups or (isinstance(out, int) and out % groups):
        raise VerifyError("channels do not match the weight and groups", got=f"{x} and {weight}")
    if len(operands) == 3:
        require_shape(operands[2], (out,), 2)
    steps = (length + 2 * padding - dilation * (width - 1) - 1) // stride + 1
    if isinstance(steps, int) and steps < 1:
        raise VerifyError("the kernel is longer than the padded input", got=f"{x} and {weight}")
    return (TensorType(x.dtype, (batch, out, steps)),)


def _conv1d_flops(inputs: Types, attrs: Attrs, outputs: Types) -> Dim:
    _, each, width = tensor(inputs, 1).shape
    return 2 * numel(tensor(outputs, 0)) * each * width


def expert_sizes(types: Types, attrs: Attrs) -> tuple[Dim, Dim, Dim, Dim]:
    """Experts, hidden size, what the first layer gives, what the second takes."""
    first, second = tensor(types, 3), tensor(types, 4)
    require_rank(first, 3, 3)
    require_rank(second, 3, 4)
    transposed = bool_of(attrs, "transposed")
    (experts, wide, hidden) = first.shape
    if transposed:
        wide, hidden = hidden, wide
    narrow = second.shape[1 if transposed else 2]
    return experts, hidden, wide, narrow


def infer_experts(types: Types, attrs: Attrs) -> Types:
    """The result of a layer of experts, whose operands fit one another and the attributes."""
    operands = tensors(types)
    x, ids, weights, first, second = operands[:5]
    same_dtype((x, first, second, *operands[5:]))
    require_class(weights, "float", 2)
    require_rank(x, 2, 0)
    require_rank(ids, 2, 1)
    if ids.dtype is not DType.I64:
        raise VerifyError("input 1 is not i64", got=ids)
    require_shape(ids, (x.shape[0], ids.shape[1]), 1)
    require_shape(weights, ids.shape, 2)
    experts, hidden, wide, narrow = expert_sizes(types, attrs)
    if hidden != x.shape[1]:
        raise VerifyError("experts take another hidden size", got=f"{x} and {first}")
    if wide != (2 * narrow if bool_of(attrs, "gated") else narrow):
        raise VerifyError("the experts' two layers do not fit", got=f"{first} and {second}")
    transposed = bool_of(attrs, "transposed")
    require_shape(second, (experts, narrow, hidden) if transposed else (experts, hidden, narrow), 4)
    expected = 7 if bool_of(attrs, "bias") else 5
    if len(operands) != expected:
        raise VerifyError("inputs do not match bias", got=len(operands), expected=expected)
    if expected == 7:
        require_shape(operands[5], (experts, wide), 5)
        require_shape(operands[6], (experts, hidden), 6)
    if str_of(attrs, "form").endswith("clamped") and float_of(attrs, "limit") <= 0:
        raise VerifyError("the limit is not positive", got=attrs["limit"])
    return (x,)


def _moe_flops(inputs: Types, attrs: Attrs, outputs: Types) -> Dim:
    _, hidden, wide, narrow = expert_sizes(inputs, attrs)
    return 2 * numel(tensor(inputs, 1)) * hidden * (wide + narrow)


def _moe_bytes(inputs: Types, attrs: Attrs, outputs: Types) -> Dim:
    used = dim_min(expert_sizes(inputs, attrs)[0], numel(tensor(inputs, 1)))
    total = nbytes(inputs[0]) + nbytes(inputs[1]) + nbytes(inputs[2]) + nbytes(outputs[0])
    for type_ in tensors(inputs)[3:]:
        total = total + used * product((*type_.shape[1:], type_.dtype.nbytes))
    return total


NN: tuple[OpSpec, ...] = (
    OpSpec(
        "linear",
        "linear(x, w [, b]): x times w transposed, plus b; accumulated in f32.",
        (2, 3),
        _infer_linear,
        flops=_linear_flops,
    ),
    OpSpec(
        "matmul",
        "The matrix product, batched as in numpy.",
        (2, 2),
        _infer_matmul,
        flops=_matmul_flops,
    ),
    OpSpec(
        "rms_norm",
        "x over its root mean square in f32, times offset + w; cast back before or after that.",
        (1, 2),
        _infer_rms_norm,
        flops=_norm_flops,
        attrs=(
            AttrSpec("eps", "float"),
            AttrSpec("offset", "float", 0.0),
            AttrSpec("cast", "str", "before", choices=("before", "after")),
        ),
    ),
    OpSpec(
        "layer_norm",
        "x less its mean, over its deviation, times w, plus b; over trailing dimensions.",
        (1, 3),
        _infer_layer_norm,
        flops=_norm_flops,
        attrs=(
            AttrSpec("eps", "float"),
            AttrSpec("axes", "int", 1),
            AttrSpec("has_weight", "bool", True),
            AttrSpec("has_bias", "bool", True),
        ),
    ),
    OpSpec(
        "conv1d",
        "conv1d(x[N, C, L], w[O, C/groups, K] [, b[O]]): the convolution along L.",
        (2, 3),
        _infer_conv1d,
        flops=_conv1d_flops,
        attrs=(
            AttrSpec("stride", "int", 1),
            AttrSpec("padding", "int", 0),
            AttrSpec("dilation", "int", 1),
            AttrSpec("groups", "int", 1),
        ),
    ),
    OpSpec(
        "moe_experts",
        "The experts that ids name, applied to each token, weighted and added up.",
        (5, 7),
        infer_experts,
        flops=_moe_flops,
        bytes=_moe_bytes,
        attrs=(*EXPERT_ATTRS, AttrSpec("transposed", "bool", False)),
    ),
)

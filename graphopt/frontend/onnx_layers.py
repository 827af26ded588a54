"""The layers of ONNX as operators of the graph: products, convolutions, pooling, norms, rotation.

before:  y = Gemm(x, w, b) {transB = 1}
after:   %y = linear(%x, @w, @b)

What the graph has no operator for, such as a convolution over two dimensions, stays PyTorch's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from graphopt.ir.dtype import DType
from graphopt.ir.graph import Attr, Value
from graphopt.ir.shape import Dim, product
from graphopt.ir.types import TensorType

from .emitter import type_of
from .onnx_call import Argument, Call, Equate, Result, Rule

# -- products -------------------------------------------------------------------------------------


def _is_weight(call: Call, value: Value) -> bool:
    """Whether a value is a weight, or one with its dimensions in another order."""
    maker = call.emit.maker(value, "permute")
    return value.is_weight or (maker is not None and maker.inputs[0].is_weight)


def product_of(call: Call, x: Value, y: Value) -> Value:
    """``x`` times ``y``: a linear map where ``y`` is a weight of two dimensions.

    Raises:
        Equate: they fit if two sizes are one.
    """
    left, right = type_of(x).shape, type_of(y).shape
    if left and right:
        inner = left[-1], right[-2 if len(right) > 1 else 0]
        if inner[0] != inner[1] and not all(isinstance(dim, int) for dim in inner):
            raise Equate(*inner)
    if len(right) == 2 and len(left) >= 2 and _is_weight(call, y):
        return call.one("linear", [x, call.emit.permute(y, (1, 0))])
    if len(left) > 2 and len(right) > 2:
        call.broadcast((left[:-2], right[:-2]))
    return call.one("matmul", [x, y])


def _matmul(call: Call) -> Sequence[Result]:
    return [product_of(call, call.value(0), call.value(1))]


def _gemm(call: Call) -> Sequence[Result]:
    x, y = call.value(0), call.value(1)
    alpha, beta = call.attr_float("alpha", 1.0), call.attr_float("beta", 1.0)
    if call.attr_int("transA", 0):
        x = call.emit.permute(x, (1, 0))
    columns = type_of(y).shape[0 if call.attr_int("transB", 0) else 1]
    bias = call.value(2) if call.has(2) else None
    plain = alpha == 1.0 and (bias is None or beta == 1.0)
    if not call.attr_int("transB", 0):
        y = call.emit.permute(y, (1, 0))
    if bias is not None and plain and type_of(bias).shape == (columns,):
        return [call.one("linear", [x, y, bias])]
    total = call.one("linear", [x, y])
    if alpha != 1.0:
        total = call.one("mul", [total], {"scalar": alpha})
    if bias is None:
        return [total]
    if beta != 1.0:
        bias = call.one("mul", [bias], {"scalar": beta})
    return [call.one("add", [total, bias])]


def _einsum(call: Call) -> Sequence[Result]:
    equation = call.attr_str("equation").replace(" ", "")
    left, arrow, right = equation.partition("->")
    terms = left.split(",")
    if not arrow or "." in equation or len(terms) != call.count:
        raise call.refused(f"the equation {equation!r} does not name every dimension")
    sizes: dict[str, Dim] = {}
    for index, term in enumerate(terms):
        for letter, dim in zip(term, call.type(index).shape, strict=False):
            (sizes[letter],) = call.broadcast(((sizes.get(letter, 1),), (dim,)))
    if not set(right) <= sizes.keys():
        raise call.refused(f"the equation {equation!r}")
    type_ = TensorType(call.type(0).dtype, tuple(sizes[letter] for letter in right))
    return [call.aten("einsum", [equation, tuple(call.values())], type_)]


# -- convolution and pooling ----------------------------------------------------------------------


def _per_dim(call: Call, name: str, rank: int) -> tuple[int, ...]:
    return call.attr_ints(name) or (1,) * rank


def _same_pads(call: Call, size: Dim, kernel: int, stride: int, dilation: int) -> tuple[int, int]:
    """What SAME padding adds before and after."""
    if not isinstance(size, int) and stride != 1:
        raise call.refused("auto_pad on a size that is not known")
    reach = dilation * (kernel - 1) + 1
    total = reach - 1
    if isinstance(size, int):
        total = max(0, (-(-size // stride) - 1) * stride + reach - size)
    small = total // 2
    upper = call.attr_str("auto_pad", "NOTSET") == "SAME_UPPER"
    return (small, total - small) if upper else (total - small, small)


class Window:
    """Where a convolution or a pooling looks: kernel, strides, dilations and padding by axis."""

    def __init__(self, call: Call, kernel: Sequence[int]) -> None:
        rank = len(kernel)
        self.kernel = tuple(kernel)
        self.strides = _per_dim(call, "strides", rank)
        self.dilations = _per_dim(call, "dilations", rank)
        spatial = call.type(0).shape[2:]
        if not rank == len(spatial) == len(self.strides) == len(self.dilations):
            raise call.refused("its attributes do not fit its input")
        if min((*self.kernel, *self.strides, *self.dilations)) < 1:
            raise call.refused("a kernel, stride or dilation is not positive")
        match call.attr_str("auto_pad", "NOTSET"):
            case "NOTSET":
                pads = call.attr_ints("pads") or (0,) * (2 * rank)
                if len(pads) != 2 * rank:
                    raise call.refused("its pads do not fit its input")
                self.pads = list(zip(pads[:rank], pads[rank:], strict=True))
            case "VALID":
                self.pads = [(0, 0)] * rank
            case _:
                self.pads = [
                    _same_pads(call, *row)
                    for row in zip(spatial, self.kernel, self.strides, self.dilations, strict=True)
                ]

    @property
    def even(self) -> bool:
        """Whether as much is added before as after."""
        return all(before == after for before, after in self.pads)

    def padded(self, call: Call, x: Value, value: float) -> Value:
        """``x`` with the padding, which then is done."""
        pairs = tuple(dim for pair in reversed(self.pads) for dim in pair)
        self.pads = [(0, 0)] * len(self.pads)
        return call.one("pad_constant", [x], {"pads": pairs, "value": value})

    def sizes(self, call: Call, shape: Sequence[Dim], *, ceil: bool = False) -> list[Dim]:
        """The sizes of what comes out of ``shape``."""
        found: list[Dim] = []
        rows = zip(shape[2:], self.kernel, self.strides, self.dilations, self.pads, strict=True)
        for size, kernel, stride, dilation, (before, after) in rows:
            steps = size + before + after - dilation * (kernel - 1) - 1
            if not ceil:
                found.append(steps // stride + 1)
                continue
            if not isinstance(steps, int) or not isinstance(size, int):
                raise call.refused("ceil_mode on a size that is not known")
            count = -(-steps // stride) + 1
            # The last window starts inside the input or the padding before it.
            found.append(count - 1 if (count - 1) * stride >= size + before else count)
        return found


def _conv(call: Call) -> Sequence[Result]:
    x, weight = call.value(0), call.value(1)
    out, *rest = type_of(weight).shape
    kernel = [int(str(dim)) for dim in rest[1:]]
    window, groups = Window(call, kernel), call.attr_int("group", 1)
    if not window.even:
        x = window.padded(call, x, 0.0)
    pads = tuple(before for before, _ in window.pads)
    bias = call.value(2) if call.has(2) else None
    shape = type_of(x).shape
    operands = [x, weight, *([] if bias is None else [bias])]
    if len(kernel) == 1:
        attrs: dict[str, Attr] = {
            "stride": window.strides[0],
            "padding": pads[0],
            "dilation": window.dilations[0],
            "groups": groups,
        }
        return [call.one("conv1d", operands, attrs)]
    arguments: list[Argument] = [x, weight, bias, window.strides, pads, window.dilations]
    nothing = (0,) * len(kernel)
    type_ = TensorType(type_of(x).dtype, (shape[0], out, *window.sizes(call, shape)))
    return [call.aten("convolution", [*arguments, False, nothing, groups], type_)]


def _conv_transpose(call: Call) -> Sequence[Result]:
    x, weight, groups = call.value(0), call.value(1), call.attr_int("group", 1)
    _, each, *rest = type_of(weight).shape
    window = Window(call, [int(str(dim)) for dim in rest])
    if not window.even or call.has_attr("output_shape") or call.has_attr("auto_pad"):
        raise call.refused("padding that is not the same on both sides")
    more = call.attr_ints("output_padding") or (0,) * len(rest)
    pads = tuple(before for before, _ in window.pads)
    shape = type_of(x).shape
    rows = zip(shape[2:], window.kernel, window.strides, window.dilations, pads, more, strict=True)
    sizes = [
        (size - 1) * stride - 2 * pad + dilation * (kernel - 1) + extra + 1
        for size, kernel, stride, dilation, pad, extra in rows
    ]
    type_ = TensorType(type_of(x).dtype, (shape[0], each * groups, *sizes))
    bias = call.value(2) if call.has(2) else None
    arguments: list[Argument] = [x, weight, bias, window.strides, pads, window.dilations]
    return [call.aten("convolution", [*arguments, True, more, groups], type_)]


def _pool(call: Call) -> Sequence[Result]:
    x, kernel = call.value(0), call.attr_ints("kernel_shape") or ()
    window, ceil = Window(call, kernel), bool(call.attr_int("ceil_mode", 0))
    rank, average = len(kernel), call.op == "AveragePool"
    if not 1 <= rank <= 3 or not call.unused(1):
        raise call.refused("places of the greatest" if rank else "no kernel_shape")
    counted = bool(call.attr_int("count_include_pad", 0))
    uneven = not window.even or any(2 * p[0] > k for p, k in zip(window.pads, kernel, strict=True))
    if uneven:
        if average and (not counted or ceil):
            raise call.refused("an average that does not count padding that differs by side")
        x = window.padded(call, x, 0.0 if average else float("-inf"))
    shape = type_of(x).shape
    sizes = window.sizes(call, shape, ceil=ceil)
    type_ = TensorType(type_of(x).dtype, (*shape[:2], *sizes))
    pads = tuple(before for before, _ in window.pads)
    arguments: list[Argument] = [x, window.kernel, window.strides, pads]
    if not average:
        return [call.aten(f"max_pool{rank}d", [*arguments, window.dilations, ceil], type_)]
    if any(dilation != 1 for dilation in window.dilations):
        raise call.refused("an average over a dilated window")
    return [call.aten(f"avg_pool{rank}d", [*arguments, ceil, counted], type_)]


def _global_pool(call: Call) -> Sequence[Result]:
    dims = tuple(range(2, call.rank(0)))
    op = "mean" if call.op == "GlobalAveragePool" else "amax"
    return [call.one(op, [call.value(0)], {"dims": dims, "keepdim": True})]


_SAMPLING: Mapping[tuple[str, int], str] = {
    ("nearest", 1): "upsample_nearest1d",
    ("nearest", 2): "upsample_nearest2d",
    ("nearest", 3): "upsample_nearest3d",
    ("linear", 1): "upsample_linear1d",
    ("linear", 2): "upsample_bilinear2d",
    ("linear", 3): "upsample_trilinear3d",
    ("cubic", 2): "upsample_bicubic2d",
}


def _resize(call: Call) -> Sequence[Result]:
    x, shape = call.value(0), call.type(0).shape
    mode, places = call.attr_str("mode", "nearest"), len(shape) - 2
    how = call.attr_str("coordinate_transformation_mode", "half_pixel")
    name = _SAMPLING.get((mode, places))
    known = {
        "nearest": how == "asymmetric"
        and call.attr_str("nearest_mode", "round_prefer_floor") == "floor",
        "linear": how in ("half_pixel", "pytorch_half_pixel", "align_corners"),
        "cubic": how in ("half_pixel", "pytorch_half_pixel", "align_corners")
        and call.attr_float("cubic_coeff_a", -0.75) == -0.75,
    }
    plain = not (call.attr_int("antialias", 0) or call.attr_int("exclude_outside", 0))
    if name is None or not known[mode] or not plain or call.has_attr("axes"):
        raise call.refused(f"mode {mode!r} with coordinates {how!r} over {places} dimensions")
    if call.has(3):
        wanted = call.dims(3)
    else:
        scales = call.floats(2)
        if len(scales) != len(shape) or not all(scale.is_integer() for scale in scales):
            raise call.refused("scales that are not whole numbers")
        wanted = tuple(size * int(scale) for size, scale in zip(shape, scales, strict=True))
    if tuple(wanted[:2]) != tuple(shape[:2]):
        raise call.refused("it changes the number of channels")
    corners: list[Argument] = [] if mode == "nearest" else [how == "align_corners"]
    type_ = TensorType(type_of(x).dtype, tuple(wanted))
    nothing: list[Argument] = [None] * places
    return [call.aten(name, [x, tuple(wanted[2:]), *corners, *nothing], type_)]


# -- norms ----------------------------------------------------------------------------------------


def _spread(call: Call, value: Value, rank: int) -> Value:
    """One number a channel, beside a tensor of ``rank`` dimensions."""
    return call.emit.reshape(value, (type_of(value).shape[0], *(1,) * (rank - 2)))


def _batch_norm(call: Call) -> Sequence[Result]:
    if call.attr_int("training_mode", 0):
        raise call.refused("it measures its batch, as in training")
    x, rank, dtype = call.value(0), call.rank(0), call.type(0).dtype
    scale, bias, mean, variance = (call.emit.cast(call.value(i), dtype) for i in range(1, 5))
    eps = call.attr_float("epsilon", 1e-5)
    over = call.one("rsqrt", [call.one("add", [variance], {"scalar": eps})])
    steep = call.one("mul", [scale, over])
    shift = call.one("sub", [bias, call.one("mul", [mean, steep])])
    scaled = call.one("mul", [x, _spread(call, steep, rank)])
    return [call.one("add", [scaled, _spread(call, shift, rank)])]


def _layer_norm(call: Call) -> Sequence[Result]:
    if not call.unused(1) or not call.unused(2):
        raise call.refused("it also gives mean and deviation")
    x, (shape, dtype) = call.value(0), (call.type(0).shape, call.type(0).dtype)
    axis = call.axis(call.attr_int("axis", -1), len(shape))
    rest = [
        call.emit.cast(_filled(call, call.value(i), shape[axis:]), dtype)
        for i in (1, 2)
        if call.has(i)
    ]
    attrs: dict[str, Attr] = {
        "eps": call.attr_float("epsilon", 1e-5),
        "axes": len(shape) - axis,
        "has_bias": len(rest) == 2,
    }
    return [call.one("layer_norm", [x, *rest], attrs)]


def _filled(call: Call, value: Value, shape: Sequence[Dim]) -> Value:
    """A weight that a norm broadcasts, in full."""
    own = type_of(value).shape
    if len(own) > len(shape) and all(dim == 1 for dim in own[: len(own) - len(shape)]):
        value = call.emit.reshape(value, own[len(own) - len(shape) :])
    return call.emit.expand(value, shape)


def _rms_norm(call: Call) -> Sequence[Result]:
    x, (shape, dtype) = call.value(0), (call.type(0).shape, call.type(0).dtype)
    axis = call.axis(call.attr_int("axis", -1), len(shape))
    weight = call.emit.cast(_filled(call, call.value(1), shape[axis:]), dtype)
    attrs: dict[str, Attr] = {"eps": call.attr_float("epsilon", 1e-5)}
    if axis == len(shape) - 1:
        return [call.one("rms_norm", [x, weight], attrs)]
    inner = product(shape[axis:])
    flat = call.emit.reshape(x, (*shape[:axis], inner))
    normed = call.one("rms_norm", [flat, call.emit.reshape(weight, (inner,))], attrs)
    return [call.emit.reshape(normed, shape)]


def _group_norm(call: Call) -> Sequence[Result]:
    x, type_, groups = call.value(0), call.type(0), call.attr_int("num_groups")
    scale, bias = call.value(1), call.value(2)
    eps = call.attr_float("epsilon", 1e-5)
    return [call.aten("group_norm", [x, groups, scale, bias, eps, False], type_)]


def _instance_norm(call: Call) -> Sequence[Result]:
    x, scale, bias = call.values()
    eps = call.attr_float("epsilon", 1e-5)
    arguments: list[Argument] = [x, scale, bias, None, None, True, 0.1, eps, False]
    return [call.aten("instance_norm", arguments, call.type(0))]


# -- rotary positions -----------------------------------------------------------------------------


def rotary(call: Call) -> Sequence[Result]:
    """``RotaryEmbedding``, every token of every sequence on its own."""
    x, shape, emit = call.value(0), call.type(0).shape, call.emit
    if len(shape) == 4:
        batch, heads, length, size = shape
        x = emit.permute(x, (0, 2, 1, 3))
    else:
        batch, length, width = shape
        heads = call.attr_int("num_heads")
        size = width // heads
    tokens = product((batch, length))
    pairs = (call.attr_int("rotary_embedding_dim", 0) or size) // 2
    tables = [call.value(1), call.value(2)]
    if call.has(3):
        places = emit.reshape(emit.cast(call.value(3), DType.I64), (tokens,))
        tables = [call.one("embed", [places, table]) for table in tables]
    else:
        rows = (batch, length, pairs)
        tables = [emit.expand(table, rows) for table in tables]
    tables = [emit.reshape(table, (tokens, pairs)) for table in tables]
    rows_of_heads = emit.reshape(x, (tokens, heads, size))
    attrs: dict[str, Attr] = {"interleaved": bool(call.attr_int("interleaved", 0))}
    turned = call.one("rope", [rows_of_heads, *tables], attrs)
    if len(shape) == 4:
        apart = emit.reshape(turned, (batch, length, heads, size))
        return [emit.permute(apart, (0, 2, 1, 3))]
    return [emit.reshape(turned, shape)]


LAYERS: Mapping[str, Rule] = {
    "MatMul": _matmul,
    "Gemm": _gemm,
    "Einsum": _einsum,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "MaxPool": _pool,
    "AveragePool": _pool,
    "GlobalAveragePool": _global_pool,
    "GlobalMaxPool": _global_pool,
    "Resize": _resize,
    "BatchNormalization": _batch_norm,
    "LayerNormalization": _layer_norm,
    "RMSNormalization": _rms_norm,
    "GroupNormalization": _group_norm,
    "InstanceNormalization": _instance_norm,
    "RotaryEmbedding": rotary,
}

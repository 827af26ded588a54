"""A random well-formed use of operators on experts and on weights of few bits."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random

from graphopt.ir.dtype import DType
from graphopt.ir.graph import Attr
from graphopt.ir.ops_nn import EXPERT_FORMS
from graphopt.ir.ops_pointwise import ACTIVATIONS
from graphopt.ir.shape import Dim
from graphopt.ir.types import TensorType

from .sample_types import FIXED, FLOATS, Make, R, Sample, T, shape_of, tensor_of


def _moe(rng: Random) -> Sample:
    dtype, gated = rng.choice((DType.F32, DType.BF16)), rng.random() < 0.7
    experts, hidden, narrow = 4, rng.choice(FIXED), rng.choice(FIXED)
    wide = 2 * narrow if gated else narrow
    transposed, bias = rng.random() < 0.5, rng.random() < 0.5
    first = (experts, hidden, wide) if transposed else (experts, wide, hidden)
    second = (experts, narrow, hidden) if transposed else (experts, hidden, narrow)
    tokens = rng.choice((T, R, 3))
    types = [
        TensorType(dtype, (tokens, hidden)),
        TensorType(DType.I64, (tokens, 2)),
        TensorType(rng.choice((dtype, DType.F32)), (tokens, 2)),
        TensorType(dtype, first),
        TensorType(dtype, second),
    ]
    if bias:
        types += [TensorType(dtype, (experts, wide)), TensorType(dtype, (experts, hidden))]
    attrs: dict[str, Attr] = {
        "activation": rng.choice(tuple(ACTIVATIONS)),
        "form": rng.choice(EXPERT_FORMS),
        "limit": 7,
        "alpha": 1.702,
        "transposed": transposed,
        "gated": gated,
        "bias": bias,
    }
    return Sample(tuple(types), attrs, {1: experts + 1})


def _quantized(rng: Random, columns: Dim, attrs: dict[str, Attr]) -> tuple[TensorType, ...]:
    """A rounded matrix with so many columns, and its scales."""
    attrs["bits"], attrs["group"] = rng.choice((8, 4)), rng.choice((1, 2, 4, 8))
    groups = (columns + attrs["group"] - 1) // attrs["group"]  # type: ignore[operator]
    rows = rng.choice(FIXED)
    scales = rng.choice((DType.F16, DType.F32, DType.F64))
    return TensorType(DType.I8, (rows, columns)), TensorType(scales, (rows, groups))


def _quantize_weight(rng: Random) -> Sample:
    batch = (3,) * rng.choice((0, 0, 1, 2))
    w = TensorType(rng.choice(FLOATS), (*batch, rng.choice(FIXED), rng.choice(FIXED)))
    attrs: dict[str, Attr] = {"bits": rng.choice((8, 4)), "group": rng.choice((1, 2, 4, 8))}
    if rng.random() < 0.5:
        attrs["dtype"] = rng.choice((DType.F16, DType.F32, DType.F64))
    return Sample((w,), attrs)


def _quantized_linear(rng: Random) -> Sample:
    x, columns = tensor_of(rng, FLOATS, 0, 2), rng.choice(FIXED)
    attrs: dict[str, Attr] = {}
    types = [TensorType(x.dtype, (*x.shape, columns)), *_quantized(rng, columns, attrs)]
    if rng.random() < 0.5:
        types.append(TensorType(x.dtype, types[1].shape[:1]))
    if rng.random() < 0.5:
        attrs["weight_only"] = rng.random() < 0.5
    return Sample(tuple(types), attrs)


def _fp8_weight(rng: Random) -> Sample:
    w = TensorType(rng.choice(FLOATS), (rng.choice(FIXED), rng.choice(FIXED)))
    return Sample((w,), {"block": rng.choice((0, 1, 3))})


def _fp8_linear(rng: Random) -> Sample:
    x, rows, columns = tensor_of(rng, FLOATS, 0, 2), rng.choice(FIXED), rng.choice(FIXED)
    block = rng.choice((0, 1, 3))
    scales = tuple((size + block - 1) // block for size in (rows, columns)) if block else ()
    types = [
        TensorType(x.dtype, (*x.shape, columns)),
        TensorType(rng.choice((DType.F8E4M3, DType.F32)), (rows, columns)),
        TensorType(DType.F32, scales),
    ]
    if rng.random() < 0.5:
        types.append(TensorType(x.dtype, (rows,)))
    return Sample(tuple(types), {"block": block})


def _quantized_embed(rng: Random) -> Sample:
    attrs: dict[str, Attr] = {"dtype": rng.choice(FLOATS), "scale": rng.choice((1.0, 0.5))}
    table = _quantized(rng, rng.choice(FIXED), attrs)
    ids = TensorType(rng.choice((DType.I64, DType.I32)), shape_of(rng, 0, 2))
    return Sample((ids, *table), attrs, {0: table[0].shape[0]})


def _quantized_experts(rng: Random) -> Sample:
    plain = _moe(rng)
    attrs = {name: attr for name, attr in plain.attrs.items() if name != "transposed"}
    group = rng.choice((1, 2, 4, 8))
    attrs |= {"bits": rng.choice((8, 4)), "group": group}
    scale = rng.choice((DType.F16, DType.F32, DType.F64))
    layers: list[TensorType] = []
    for type_ in plain.types[3:5]:
        assert isinstance(type_, TensorType)
        experts, rows, columns = type_.shape
        if plain.attrs["transposed"]:
            rows, columns = columns, rows
        groups = (columns + group - 1) // group
        layers.append(TensorType(DType.I8, (experts, rows, columns)))
        layers.append(TensorType(scale, (experts, rows, groups)))
    return Sample((*plain.types[:3], *layers, *plain.types[5:]), attrs, plain.limits)


WEIGHT_SAMPLES: Mapping[str, Make] = {
    "moe_experts": _moe,
    "quantize_weight": _quantize_weight,
    "quantized_linear": _quantized_linear,
    "quantized_embed": _quantized_embed,
    "quantized_experts": _quantized_experts,
    "fp8_weight": _fp8_weight,
    "fp8_linear": _fp8_linear,
}

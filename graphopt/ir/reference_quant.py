"""Weights of a few bits in PyTorch: rounding a matrix, and the layers that read what it gave."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from graphopt.errors import UnsupportedError

from .graph import Node
from .ops_quant import DIVISORS
from .ops_spec import dtype_of, float_of, int_of
from .printer import print_node
from .reference_common import Env, Maker, Step, torch_dtype, wide_dtype

# Numbers of a matrix that are worked on together, so that they stay in a second-level cache. One
# thread rounded 10^9 bytes of bf16 to 4 bits in 3.1 s with 2^18 (to 8 bits in 1.1 s), in 4.2 s with
# 2^17, 5.1 s with 2^20 and 10 s with 2^22.
CHUNK = 1 << 18
# Below this a row's largest number in a group counts as zero: 127 over it would near f32's end.
TINY = 2.0**-100


def _quantize_weight(node: Node) -> Step:
    bits, group = int_of(node.attrs, "bits"), int_of(node.attrs, "group")
    dtype = torch_dtype(dtype_of(node.attrs, "dtype"))

    def run(values: Sequence[Any], env: Env) -> tuple[Any, ...]:
        w: Tensor = values[0]
        rows, columns = w.shape
        integers = torch.empty((rows, columns), dtype=torch.int8, device=w.device)
        scales = torch.empty((rows, -(-columns // group)), dtype=dtype, device=w.device)
        step = max(1, CHUNK // max(1, columns))
        for first in range(0, rows, step):
            part = slice(first, first + step)
            grouped = in_groups(w[part].float(), group)
            chosen = choose_scales(grouped, bits)
            if torch.isinf(chosen).any():
                raise UnsupportedError(
                    "a weight is too large to be quantized: its scale is no f16",
                    where=print_node(node),
                    got=float(grouped[torch.isinf(chosen).squeeze(-1)].abs().max()),
                    expected=f"at most {65504 * abs(DIVISORS[bits][0])}",
                    next="compile without --quantize",
                )
            integers[part] = _rounded(grouped, chosen, bits).flatten(1)[:, :columns]
            scales[part] = chosen.squeeze(-1)
        return integers, scales

    return run


def in_groups(x: Tensor, group: int) -> Tensor:
    """The last dimension in groups, the last one filled with zeros: ``[..., K / group, group]``."""
    padded = functional.pad(x, (0, -x.shape[-1] % group))
    return padded.reshape(*x.shape[:-1], padded.shape[-1] // group, group)


def choose_scales(grouped: Tensor, bits: int) -> Tensor:
    """The scale of each group of ``grouped[N, G, group]``, f32 of f16's values: ``[N, G, 1]``."""
    place = grouped.abs().argmax(-1, keepdim=True)
    greatest = grouped.gather(-1, place)
    greatest[~torch.isfinite(greatest)] = torch.nan
    offered = [(greatest / divisor).half().float() for divisor in DIVISORS[bits]]
    best, least = offered[0], torch.empty(0)
    if len(offered) == 1:
        return best
    for scale in offered:
        steps = grouped * torch.where(scale == 0, 0.0, 1 / scale)
        off = _clamped(steps.round(), bits).sub_(steps)
        error = scale.abs() * off.square_().sum(-1, keepdim=True).sqrt_()
        error[scale == 0] = torch.inf
        if not len(least):
            least = error
        else:
            better = error < least
            best, least = torch.where(better, scale, best), torch.where(better, error, least)
    return best


def _rounded(grouped: Tensor, scale: Tensor, bits: int) -> Tensor:
    """``grouped`` over ``scale`` as integers (of floating-point type), 0 where it is 0 or NaN."""
    usable = torch.where((scale == 0) | scale.isnan(), torch.inf, scale)
    return _clamped((grouped / usable).round_(), bits).nan_to_num_(0.0)


def _clamped(integers: Tensor, bits: int) -> Tensor:
    limit = 1 << (bits - 1)
    return integers.clamp_(-limit, limit - 1)


def dequantized(integers: Tensor, scales: Tensor, group: int, dtype: torch.dtype) -> Tensor:
    """The matrix that integers and scales stand for."""
    wide = in_groups(integers.to(dtype), group) * scales.to(dtype)[..., None]
    return wide.flatten(-2)[..., : integers.shape[-1]]


def round_rows(x: Tensor, group: int) -> tuple[Tensor, Tensor]:
    """Each group of a row as integers up to 127 (of ``x``'s type), and its scale.

    Returns:
        integers ``[..., G, group]`` and scales ``[..., G, 1]``.
    """
    grouped = in_groups(x, group)
    greatest = grouped.abs().amax(-1, keepdim=True)
    finite = torch.isfinite(greatest)
    used = finite & (greatest >= TINY)
    # Not `127 / greatest`: PyTorch computes that as 127 times a rounded reciprocal.
    factor = torch.where(used, greatest.new_tensor(127) / greatest, 0.0)
    integers = torch.where(used, (grouped * factor).round(), 0.0)
    return integers, torch.where(used, greatest / 127, torch.where(finite, 0.0, torch.nan))


def _quantized_linear(node: Node) -> Step:
    group = int_of(node.attrs, "group")

    def run(values: Sequence[Any], env: Env) -> tuple[Any, ...]:
        x, integers, scales = values[:3]
        wide = wide_dtype(x.dtype)
        steps, sizes = round_rows(x.to(wide), group)
        rounded = (steps * sizes).flatten(-2)[..., : x.shape[-1]]
        rows, columns = integers.shape
        out = torch.empty((*x.shape[:-1], rows), dtype=x.dtype, device=x.device)
        step = max(1, 16 * CHUNK // max(1, columns))
        for first in range(0, rows, step):
            part = slice(first, first + step)
            weight = dequantized(integers[part], scales[part], group, wide)
            bias = values[3][part].to(wide) if len(values) == 4 else None
            out[..., part] = functional.linear(rounded, weight, bias).to(x.dtype)
        return (out,)

    return run


def _quantized_embed(node: Node) -> Step:
    group, scale = int_of(node.attrs, "group"), float_of(node.attrs, "scale")
    dtype = torch_dtype(dtype_of(node.attrs, "dtype"))

    def run(values: Sequence[Any], env: Env) -> tuple[Any, ...]:
        ids, integers, scales = values
        wide = wide_dtype(dtype)
        rows = functional.embedding(ids, integers)
        found = dequantized(rows, functional.embedding(ids, scales), group, wide)
        return ((found * scale).to(dtype),)

    return run


QUANT: Mapping[str, Maker] = {
    "quantize_weight": _quantize_weight,
    "quantized_linear": _quantized_linear,
    "quantized_embed": _quantized_embed,
}

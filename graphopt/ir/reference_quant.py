"""Weights of a few bits in PyTorch: rounding a matrix, and the layers that read what it gave."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from graphopt.errors import UnsupportedError

from .graph import Node
from .ops_quant import DIVISORS
from .ops_spec import bool_of, dtype_of, float_of, int_of
from .printer import print_node
from .reference_common import Env, Maker, Step, torch_dtype, wide_dtype
from .reference_nn import expert_gate, run_experts

# Numbers of a matrix that are worked on together, so that they stay in a second-level cache. One
# thread rounded 10^9 bytes of bf16 to 4 bits in 3.1 s with 2^18 (to 8 bits in 1.1 s), in 4.2 s with
# 2^17, 5.1 s with 2^20 and 10 s with 2^22.
CHUNK = 1 << 18
# Below this a row's largest number in a group counts as zero: 127 over it would near f32's end.
TINY = 2.0**-100
# The greatest number of f8e4m3.
GREATEST_FP8 = 448.0


def _quantize_weight(node: Node) -> Step:
    bits, group = int_of(node.attrs, "bits"), int_of(node.attrs, "group")
    dtype = torch_dtype(dtype_of(node.attrs, "dtype"))

    def run(values: Sequence[Any], env: Env) -> tuple[Any, ...]:
        w: Tensor = values[0]
        columns = w.shape[-1]
        integers = torch.empty(w.shape, dtype=torch.int8, device=w.device)
        scales = torch.empty((*w.shape[:-1], -(-columns // group)), dtype=dtype, device=w.device)
        for part in _parts(w):
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


def _parts(w: Tensor) -> Iterator[tuple[int | slice, ...]]:
    """Indices of some rows of one matrix each, which together are all rows of all matrices."""
    *batch, rows, columns = w.shape
    step = max(1, CHUNK // max(1, columns))
    for matrix in product(*map(range, batch)):
        for first in range(0, rows, step):
            yield (*matrix, slice(first, first + step))


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


def quantized_product(
    x: Tensor,
    integers: Tensor,
    scales: Tensor,
    bias: Tensor | None,
    group: int,
    *,
    weight_only: bool = False,
) -> Tensor:
    """Rows of ``x`` times a rounded matrix, plus ``bias``; of the type of ``x``.

    The rows are rounded, too, unless ``weight_only``.
    """
    wide = wide_dtype(x.dtype)
    rounded = x.to(wide)
    if not weight_only:
        steps, sizes = round_rows(rounded, group)
        rounded = (steps * sizes).flatten(-2)[..., : x.shape[-1]]
    rows, columns = integers.shape
    out = torch.empty((*x.shape[:-1], rows), dtype=x.dtype, device=x.device)
    step = max(1, 16 * CHUNK // max(1, columns))
    for first in range(0, rows, step):
        part = slice(first, first + step)
        weight = dequantized(integers[part], scales[part], group, wide)
        added = None if bias is None else bias[part].to(wide)
        out[..., part] = functional.linear(rounded, weight, added).to(x.dtype)
    return out


def _quantized_linear(node: Node) -> Step:
    group, weight_only = int_of(node.attrs, "group"), bool_of(node.attrs, "weight_only")

    def run(values: Sequence[Any], env: Env) -> tuple[Any, ...]:
        x, integers, scales, *biases = values
        bias = biases[0] if biases else None
        return (quantized_product(x, integers, scales, bias, group, weight_only=weight_only),)

    return run


def _quantized_experts(node: Node) -> Step:
    gate, group = expert_gate(node), int_of(node.attrs, "group")
    bias = bool_of(node.attrs, "bias")

    def run(values: Sequence[Any], env: Env) -> tuple[Any, ...]:
        first, second = values[3:5], values[5:7]

        def layer(x: Tensor, weight: Sequence[Tensor], number: int, added: int) -> Tensor:
            integers, scales = (part[number] for part in weight)
            own = values[added][number] if bias else None
            return quantized_product(x, integers, scales, own, group)

        def expert(rows: Tensor, number: int) -> Tensor:
            return layer(gate(layer(rows, first, number, 7)), second, number, 8)

        return (run_experts(values, first[0].shape[0], expert),)

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


def _fp8_weight(node: Node) -> Step:
    block = int_of(node.attrs, "block")
    dtype, kept = (torch_dtype(dtype_of(node.attrs, name)) for name in ("dtype", "scales"))

    def run(values: Sequence[Any], env: Env) -> tuple[Any, ...]:
        w: Tensor = values[0]
        rows, columns = w.shape
        # Blocks as rows: [N / block, K / block, block, block].
        tall, wide = block or max(1, rows), block or max(1, columns)
        padded = functional.pad(w.float(), (0, -columns % wide, 0, -rows % tall))
        sizes = (padded.shape[0] // tall, tall, padded.shape[1] // wide, wide)
        blocks = padded.reshape(sizes).transpose(1, 2)
        integers, scales = round_fp8(blocks.flatten(2))
        whole = integers.reshape(blocks.shape).transpose(1, 2).flatten(2).flatten(0, 1)
        made = scales.squeeze(-1) if block else scales.reshape(())
        return whole[:rows, :columns].to(dtype), made.to(kept)

    return run


def round_fp8(grouped: Tensor) -> tuple[Tensor, Tensor]:
    """Each last dimension as numbers of f8e4m3 (of ``grouped``'s type), and its scale.

    Returns:
        numbers of ``grouped``'s shape, and scales ``[..., 1]``.
    """
    greatest = grouped.abs().amax(-1, keepdim=True)
    finite = torch.isfinite(greatest)
    used = finite & (greatest >= TINY)
    factor = torch.where(used, greatest.new_tensor(GREATEST_FP8) / greatest, 0.0)
    scaled = (grouped * factor).clamp(-GREATEST_FP8, GREATEST_FP8).to(torch.float8_e4m3fn)
    rounded = torch.where(used, scaled.to(grouped.dtype), 0.0)
    return rounded, torch.where(used, greatest / GREATEST_FP8, torch.where(finite, 0.0, torch.nan))


def _fp8_linear(node: Node) -> Step:
    block = int_of(node.attrs, "block")

    def run(values: Sequence[Any], env: Env) -> tuple[Any, ...]:
        x, numbers, scales = values[:3]
        wide, columns = wide_dtype(x.dtype), x.shape[-1]
        steps, sizes = round_fp8(in_groups(x.to(wide), block or max(1, columns)))
        rounded = (steps * sizes).flatten(-2)[..., :columns]
        factors = scales.to(wide)
        if block:
            factors = factors.repeat_interleave(block, 0).repeat_interleave(block, 1)
            factors = factors[: numbers.shape[0], :columns]
        bias = values[3].to(wide) if len(values) == 4 else None
        return (functional.linear(rounded, numbers.to(wide) * factors, bias).to(x.dtype),)

    return run


QUANT: Mapping[str, Maker] = {
    "quantize_weight": _quantize_weight,
    "quantized_linear": _quantized_linear,
    "quantized_embed": _quantized_embed,
    "quantized_experts": _quantized_experts,
    "fp8_weight": _fp8_weight,
    "fp8_linear": _fp8_linear,
}

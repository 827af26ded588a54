"""The layers in PyTorch: linear maps, norms, convolution, experts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from .graph import Node
from .ops_spec import bool_of, float_of, int_of, str_of
from .reference_common import Env, Maker, Step, wide_dtype
from .reference_pointwise import ACTIVATIONS


def _linear(node: Node) -> Step:
    if len(node.inputs) == 3:
        return lambda values, env: (functional.linear(values[0], values[1], values[2]),)
    return lambda values, env: (functional.linear(values[0], values[1]),)


def _matmul(node: Node) -> Step:
    return lambda values, env: (torch.matmul(values[0], values[1]),)


def _rms_norm(node: Node) -> Step:
    eps, offset = float_of(node.attrs, "eps"), float_of(node.attrs, "offset")
    weighted, late = len(node.inputs) == 2, str_of(node.attrs, "cast") == "after"

    def run(values: Sequence[Any], env: Env) -> tuple[Any, ...]:
        x: Tensor = values[0]
        wide = x.to(wide_dtype(x.dtype))
        normed = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
        if not weighted:
            return (normed.to(x.dtype),)
        weight: Tensor = values[1]
        if late:
            weight = weight.to(wide.dtype)
            return ((normed * (weight + offset if offset else weight)).to(x.dtype),)
        return ((weight + offset if offset else weight) * normed.to(x.dtype),)

    return run


def _layer_norm(node: Node) -> Step:
    eps, axes = float_of(node.attrs, "eps"), int_of(node.attrs, "axes")
    has_weight, has_bias = bool_of(node.attrs, "has_weight"), bool_of(node.attrs, "has_bias")

    def run(values: Sequence[Any], env: Env) -> tuple[Any, ...]:
        x: Tensor = values[0]
        weight = values[1] if has_weight else None
        bias = values[-1] if has_bias else None
        return (functional.layer_norm(x, x.shape[-axes:], weight, bias, eps),)

    return run


def _conv1d(node: Node) -> Step:
    settings = tuple(
        int_of(node.attrs, name) for name in ("stride", "padding", "dilation", "groups")
    )

    def run(values: Sequence[Any], env: Env) -> tuple[Any, ...]:
        bias = values[2] if len(values) == 3 else None
        return (functional.conv1d(values[0], values[1], bias, *settings),)

    return run


def expert_gate(node: Node) -> Callable[[Tensor], Tensor]:
    """What an expert does between its layers; see ``ops_nn.EXPERT_FORMS``."""
    activation = ACTIVATIONS[str_of(node.attrs, "activation")]
    form = str_of(node.attrs, "form")
    limit, alpha = float_of(node.attrs, "limit"), float_of(node.attrs, "alpha")
    if not bool_of(node.attrs, "gated"):
        return activation

    def gate(wide: Tensor) -> Tensor:
        if form.startswith("interleaved"):
            first, second = wide[..., ::2], wide[..., 1::2]
        else:
            first, second = wide.chunk(2, dim=-1)
        if form in ("concat", "interleaved"):
            return activation(first) * second
        first, second = first.clamp(max=limit), second.clamp(min=-limit, max=limit)
        if form == "concat_limited":
            return activation(first) * second
        return (second + 1) * (first * torch.sigmoid(first * alpha))

    return gate


def run_experts(
    values: Sequence[Any], experts: int, expert: Callable[[Tensor, int], Tensor]
) -> Tensor:
    """The sum of a layer of experts, given what one of them makes of some rows.

    Args:
        values: rows of x, ids, and the share of each.
        experts: how many there are; an id of none of them is a sentinel and goes to none.
        expert: takes rows and an expert's number.
    """
    x, ids, weights = values[:3]
    out = torch.zeros_like(x)
    for number in sorted(set(ids.flatten().tolist())):
        if not 0 <= number < experts:
            continue
        places, tokens = torch.where(number == ids.T)
        share = expert(x[tokens], number) * weights[tokens, places, None]
        out.index_add_(0, tokens, share.to(out.dtype))
    return out


def _moe_experts(node: Node) -> Step:
    gate = expert_gate(node)
    bias, transposed = bool_of(node.attrs, "bias"), bool_of(node.attrs, "transposed")

    def layer(x: Tensor, weight: Tensor, added: Tensor | None) -> Tensor:
        if transposed:
            result = x @ weight
            return result if added is None else result + added
        return functional.linear(x, weight, added)

    def run(values: Sequence[Any], env: Env) -> tuple[Any, ...]:
        first, second = values[3:5]

        def expert(rows: Tensor, number: int) -> Tensor:
            wide = layer(rows, first[number], values[5][number] if bias else None)
            return layer(gate(wide), second[number], values[6][number] if bias else None)

        return (run_experts(values, first.shape[0], expert),)

    return run


NN: Mapping[str, Maker] = {
    "linear": _linear,
    "matmul": _matmul,
    "rms_norm": _rms_norm,
    "layer_norm": _layer_norm,
    "conv1d": _conv1d,
    "moe_experts": _moe_experts,
}

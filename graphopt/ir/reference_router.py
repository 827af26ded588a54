"""The router of a mixture of experts in PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .graph import Node
from .ops_spec import bool_of, float_of, int_of, str_of
from .reference_common import Env, Maker, Step, wide_dtype


def _groups(node: Node) -> Callable[[Tensor], Tensor]:
    """What experts outside the best groups count as; see ``ops_router.GROUP_SCORES``."""
    groups, top = int_of(node.attrs, "groups"), int_of(node.attrs, "top_groups")
    by_sum = str_of(node.attrs, "group_score") == "top2"
    masked = float_of(node.attrs, "masked")

    def limited(choice: Tensor) -> Tensor:
        if groups == top:
            return choice
        grouped = choice.view(len(choice), groups, choice.shape[1] // groups)
        best = grouped.topk(2).values.sum(-1) if by_sum else grouped.amax(-1)
        outside = torch.ones_like(best, dtype=torch.bool)
        outside.scatter_(1, best.topk(top).indices, False)
        return grouped.masked_fill(outside[..., None], masked).view(choice.shape)

    return limited


def _normalize(node: Node) -> Callable[[Tensor], Tensor]:
    normalized, scale = bool_of(node.attrs, "normalized"), float_of(node.attrs, "scale")
    least, epsilon = float_of(node.attrs, "least"), float_of(node.attrs, "epsilon")

    def run(weights: Tensor) -> Tensor:
        if normalized:
            weights = weights / (weights.sum(-1, keepdim=True).clamp(min=least) + epsilon)
        return weights * scale

    return run


def _moe_router(node: Node) -> Step:
    k, scores = int_of(node.attrs, "k"), str_of(node.attrs, "scores")
    limited, normalize = _groups(node), _normalize(node)

    def run(values: Sequence[Any], env: Env) -> tuple[Any, ...]:
        logits: Tensor = values[0]
        wide = logits.to(wide_dtype(logits.dtype))
        if scores == "softmax":
            wide = wide.softmax(-1)
        elif scores == "sigmoid":
            wide = wide.sigmoid()
        choice = wide if len(values) == 1 else wide + values[1]
        ids = limited(choice).topk(k).indices
        weights = wide.gather(1, ids)
        if scores == "chosen_softmax":
            weights = weights.softmax(-1)
        elif scores == "chosen_sigmoid":
            weights = weights.sigmoid()
        return (normalize(weights).to(logits.dtype), ids)

    return run


ROUTER: Mapping[str, Maker] = {"moe_router": _moe_router}

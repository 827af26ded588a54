"""Rotary position embedding in PyTorch.

Models spell it out in the element type of the queries: two products and a sum, each rounded. This
rounds once. With unit roundoff u, the spelled-out result is off by at most u (2|a cos| + 2|b sin|)
in first order, and the single rounding by u |result|, which is not more: so both lie within two
roundings of the pair's length, and this one is the nearer to the exact rotation. In float32 both
compute the same two products and the same sum, and agree in every bit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .graph import Node
from .ops_spec import bool_of, int_of
from .reference_common import Env, Maker, Step, wide_dtype


def _rope(node: Node) -> Step:
    interleaved, offset = bool_of(node.attrs, "interleaved"), int_of(node.attrs, "offset")

    def run(values: Sequence[Any], env: Env) -> tuple[Any, ...]:
        x: Tensor = values[0]
        wide = wide_dtype(x.dtype)
        cos, sin = (table.to(wide)[:, None] for table in values[1:])
        pairs = cos.shape[-1]
        turned = x[..., offset : offset + 2 * pairs].to(wide)
        if interleaved:
            a, b = turned[..., ::2], turned[..., 1::2]
        else:
            a, b = turned[..., :pairs], turned[..., pairs:]
        both = (a * cos - b * sin, b * cos + a * sin)
        joined = torch.stack(both, -1).flatten(-2) if interleaved else torch.cat(both, -1)
        before, after = x[..., :offset], x[..., offset + 2 * pairs :]
        return (torch.cat((before, joined.to(x.dtype), after), -1),)

    return run


ROPE: Mapping[str, Maker] = {"rope": _rope}

"""Attention by others, on dense keys and values: PyTorch's SDPA by backend, and FlexAttention.

Ours reads pages; dense memory is the easier work, so these are the bar.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.bias import causal_lower_right

from .case import AbsentError, Peer, Work


def sdpa(backend: SDPBackend, *, causal: bool = True) -> Peer:
    """Scaled dot product attention by one of its libraries; causal, ending where the keys end.

    If not ``causal`` there is no mask.
    """
    return partial(_sdpa, backend, causal)


def _sdpa(backend: SDPBackend, causal: bool, work: Work) -> Callable[[], Tensor]:
    q, k, v = _dense(work)
    count, length = q.shape[2], k.shape[2]
    named: dict[str, Any] = {"enable_gqa": q.shape[1] != k.shape[1]}
    if causal and count == length:
        named["is_causal"] = True
    elif causal and count > 1:
        named["attn_mask"] = causal_lower_right(count, length)
    attend = torch.nn.functional.scaled_dot_product_attention

    def run() -> Tensor:
        with sdpa_kernel(backend):
            return attend(q, k, v, **named)

    return lambda: _as_rows(run())


def flex(
    work: Work, compiler: Callable[..., Any] = torch.compile, *, causal: bool = True
) -> Callable[[], Tensor]:
    """FlexAttention with a causal mask of blocks, or without one."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    q, k, v = _dense(work)
    count, length = q.shape[2], k.shape[2]
    offset = length - count

    def is_seen(batch: Tensor, head: Tensor, row: Tensor, column: Tensor) -> Tensor:
        return row + offset >= column

    mask = None
    if causal and count > 1:
        mask = create_block_mask(is_seen, None, None, count, length, device=str(q.device))
    attend = compiler(flex_attention, dynamic=False)
    gqa = q.shape[1] != k.shape[1]
    return lambda: _as_rows(attend(q, k, v, block_mask=mask, enable_gqa=gqa))


def _dense(work: Work) -> tuple[Tensor, Tensor, Tensor]:
    if work.dense is None:
        raise AbsentError("sequences of several lengths have no dense form")
    return work.dense()


def _as_rows(out: Tensor) -> Tensor:
    """[S, heads, n, D] as the graph has it, [T, heads, D]: a view where a sequence has one row."""
    return out.transpose(1, 2).flatten(0, 1)


def attention_peers(*, causal: bool = True) -> dict[str, Peer]:
    """All of them, by the names they have in tables."""
    return {
        "SDPA flash": sdpa(SDPBackend.FLASH_ATTENTION, causal=causal),
        "SDPA cuDNN": sdpa(SDPBackend.CUDNN_ATTENTION, causal=causal),
        "FlexAttention": partial(flex, causal=causal),
    }

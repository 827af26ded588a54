"""The same work by others: PyTorch's libraries and compiler, and Liger's kernels where installed.

A peer is made of a case's operands and can then be called again and again; making it may compile.
What it takes to bring operands into the form that it wants (dense keys, packed weights) is not
timed. What a peer gives is held against the reference too, with more tolerance than ours: one that
computes something else is no peer, and says so in the table.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .case import AbsentError, Eager, Peer, Tensors, Work


def in_pytorch(eager: Eager) -> Peer:
    """PyTorch, one operator after the other."""
    return lambda work: lambda: eager(work.tensors)


def compiled(eager: Eager, compiler: Callable[..., Any] = torch.compile) -> Peer:
    """The same function through PyTorch's compiler, with fixed sizes."""

    def make(work: Work) -> Callable[[], Tensor]:
        faster = compiler(eager, dynamic=False, fullgraph=True)
        return lambda: faster(work.tensors)

    return make


def eager_rms_norm(given: Tensors) -> Tensor:
    """Rows of x."""
    return torch.nn.functional.rms_norm(given["x"], given["weight"].shape, given["weight"], 1e-6)


def eager_add_rms_norm(given: Tensors) -> Tensor:
    """Only the norm is given back; the sum is written as well."""
    total = given["x"] + given["residual"]
    torch.nn.functional.rms_norm(total, given["weight"].shape, given["weight"], 1e-6)
    return total


def both_add_rms_norm(given: Tensors) -> tuple[Tensor, Tensor]:
    """The sum, and its norm."""
    total = given["x"] + given["residual"]
    norm = torch.nn.functional.rms_norm(total, given["weight"].shape, given["weight"], 1e-6)
    return total, norm


def compiled_add_rms_norm(work: Work) -> Callable[[], Tensor]:
    """Both results, so that the compiler cannot leave one out."""
    faster = torch.compile(both_add_rms_norm, dynamic=False, fullgraph=True)

    def run() -> Tensor:
        total, _ = faster(work.tensors)
        return total

    return run


def eager_layer_norm(given: Tensors) -> Tensor:
    """Rows of x."""
    weight, bias = given["weight"], given["bias"]
    return torch.nn.functional.layer_norm(given["x"], weight.shape, weight, bias, 1e-5)


def eager_glu(given: Tensors) -> Tensor:
    """A gated unit."""
    return torch.nn.functional.silu(given["gate"]) * given["up"]


def eager_softmax(given: Tensors) -> Tensor:
    """Of rows."""
    return torch.softmax(given["x"], -1)


def eager_embedding(given: Tensors) -> Tensor:
    """Rows of a table."""
    return torch.nn.functional.embedding(given["token_ids"], given["table"])


def eager_final_norm(given: Tensors) -> Tensor:
    """The norm of some rows."""
    rows = given["x"].index_select(0, given["rows"])
    return torch.nn.functional.rms_norm(rows, given["weight"].shape, given["weight"], 1e-6)


def eager_router(k: int) -> Eager:
    """Weights of the experts that are chosen."""

    def run(given: Tensors) -> Tensor:
        weights, _ = torch.topk(torch.softmax(given["logits"], -1), k, -1)
        return weights / weights.sum(-1, keepdim=True)

    return run


def eager_heads(given: Tensors) -> Tensor:
    """Norms and rotary positions of queries and keys; keys and values go to their slots."""
    cos, sin = given["cos"][:, None], given["sin"][:, None]

    def turned(x: Tensor, norm: Tensor | None) -> Tensor:
        if norm is not None:
            x = torch.nn.functional.rms_norm(x, norm.shape, norm, 1e-6)
        a, b = x.float().chunk(2, -1)
        return torch.cat((a * cos - b * sin, b * cos + a * sin), -1).to(x.dtype)

    given["keys"].index_copy_(0, given["slots"], turned(given["k"], given.get("k_norm")))
    given["values"].index_copy_(0, given["slots"], given["v"])
    return turned(given["q"], given.get("q_norm"))


def eager_linear(before: str, after: str) -> Eager:
    """A linear map with what the region has around it."""

    def run(given: Tensors) -> Tensor:
        x, weight = given["x"], given["weight"]
        if before == "rms_norm":
            x = torch.nn.functional.rms_norm(x, x.shape[-1:], given["norm"], 1e-6)
        y = torch.nn.functional.linear(x, weight, given.get("bias"))
        if after == "residual":
            return given["residual"] + y
        if after == "glu":
            gate, up = y.chunk(2, -1)
            return torch.nn.functional.silu(gate) * up
        return y

    return run


def torch_mm(work: Work) -> Callable[[], Tensor]:
    """The library's product alone, whatever the region has around it."""
    x, weight = work.tensors["x"], work.tensors["weight"]
    out = torch.empty(x.shape[0], weight.shape[0], dtype=x.dtype, device=x.device)
    return lambda: torch.mm(x, weight.T, out=out)


def dequantized_mm(work: Work) -> Callable[[], Tensor]:
    """The library's product with the weight in 16 bits."""
    x = work.tensors["x"]
    weight = _dequantized(work).to(x.dtype)
    return lambda: torch.mm(x, weight.T)


def unscaled_mm(block: int) -> Peer:
    """The library's product with the weight of blocks in 16 bits."""

    def make(work: Work) -> Callable[[], Tensor]:
        x, q = work.tensors["x"], work.tensors["weight"]
        scales = work.tensors["scales"].repeat_interleave(block, 0)[: q.shape[0]]
        weight = q.float() * scales.repeat_interleave(block, 1)[:, : q.shape[1]]
        narrow = weight.to(x.dtype)
        return lambda: torch.mm(x, narrow.T)

    return make


def int4_mm(group: int) -> Peer:
    """PyTorch's product of bf16 rows with a weight of four bits."""

    def make(work: Work) -> Callable[[], Tensor]:
        x, q, scales = (work.tensors[name] for name in ("x", "weight", "scales"))
        unsigned = (q.to(torch.int32) + 8).to(torch.uint8)
        pairs = (unsigned[:, ::2] << 4) | unsigned[:, 1::2]
        packed = torch.ops.aten._convert_weight_to_int4pack(pairs.contiguous(), 8)
        steps = scales.T.to(x.dtype)
        both = torch.stack((steps, torch.zeros_like(steps)), -1).contiguous()
        product = torch.ops.aten._weight_int4pack_mm

        def run() -> Tensor:
            found: Tensor = product(x, packed, group, both)
            return found

        return run

    return make


def eager_head_matmul(given: Tensors) -> Tensor:
    """A matrix for each head."""
    return torch.bmm(given["x"].transpose(0, 1), given["weight"])


def eager_experts(given: Tensors) -> Tensor:
    """Expert after expert, as the models of transformers do it."""
    x, ids, weights = given["x"], given["ids"], given["weights"]
    total = torch.zeros_like(x, dtype=torch.float32)
    for expert in range(given["gate_up"].shape[0]):
        rows, places = torch.where(ids == expert)
        gate, up = (x[rows] @ given["gate_up"][expert].T).chunk(2, -1)
        y = (torch.nn.functional.silu(gate) * up) @ given["down"][expert].T
        total.index_add_(0, rows, y.float() * weights[rows, places, None].float())
    return total.to(x.dtype)


def grouped_experts(work: Work) -> Callable[[], Tensor]:
    """PyTorch's grouped product on tokens that are sorted by expert."""
    given = work.tensors
    grouped = getattr(torch, "_grouped_mm", None)
    if grouped is None:
        raise AbsentError("this PyTorch has no grouped product")
    first, second = (given[name].transpose(1, 2) for name in ("gate_up", "down"))
    k = given["ids"].shape[1]
    every = torch.arange(given["gate_up"].shape[0], device=given["ids"].device)

    def run() -> Tensor:
        ids, order = torch.sort(given["ids"].flatten(), stable=True)
        tokens = order // k
        ends = torch.searchsorted(ids, every, right=True).int()
        gate, up = grouped(given["x"][tokens], first, offs=ends).chunk(2, -1)
        y = grouped(torch.nn.functional.silu(gate) * up, second, offs=ends)
        weighted = y.float() * given["weights"].flatten()[order, None].float()
        total = torch.zeros_like(given["x"], dtype=torch.float32)
        return total.index_add_(0, tokens, weighted).to(given["x"].dtype)

    return run


def liger_rms_norm(work: Work) -> Callable[[], Tensor]:
    """Liger's norm of rows."""
    function = _liger("rms_norm", "LigerRMSNormFunction")
    x, weight = work.tensors["x"], work.tensors["weight"]
    return lambda: function.apply(x, weight, 1e-6, 0.0, "llama", False)


def liger_add_rms_norm(work: Work) -> Callable[[], Tensor]:
    """Liger's norm of a sum."""
    function = _liger("fused_add_rms_norm", "LigerFusedAddRMSNormFunction")
    x, residual, weight = (work.tensors[name] for name in ("x", "residual", "weight"))

    def run() -> Tensor:
        _, total = function.apply(x, residual, weight, 1e-6, 0.0, "llama", False)
        found: Tensor = total
        return found

    return run


def liger_layer_norm(work: Work) -> Callable[[], Tensor]:
    """Liger's norm with a mean."""
    function = _liger("layer_norm", "LigerLayerNormFunction")
    given = work.tensors
    return lambda: function.apply(given["x"], given["weight"], given["bias"], 1e-5)


def liger_glu(work: Work) -> Callable[[], Tensor]:
    """Liger's gated unit."""
    function = _liger("swiglu", "LigerSiLUMulFunction")
    return lambda: function.apply(work.tensors["gate"], work.tensors["up"])


def _liger(module: str, name: str) -> Any:
    try:
        return getattr(importlib.import_module(f"liger_kernel.ops.{module}"), name)
    except (ImportError, AttributeError) as error:
        raise AbsentError("Liger's kernels are not installed") from error


def _dequantized(work: Work) -> Tensor:
    q, scales = work.tensors["weight"], work.tensors["scales"]
    group = -(-q.shape[1] // scales.shape[1])
    return q.float() * scales.float().repeat_interleave(group, 1)[:, : q.shape[1]]

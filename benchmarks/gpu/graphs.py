"""Graphs of one region each: what the suite's kernels compute, at any size.

Operands are inputs called ``x``, ``q``, ``k``, ``v`` and so on; peers find them by these names.
"""

from __future__ import annotations

from graphopt.ir.builder import GraphBuilder
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Attr, Graph, Value
from graphopt.ir.shape import Dim, sym
from graphopt.ir.types import LayerState, StateType, TensorType

T, R, S, P = sym("T"), sym("R"), sym("S"), sym("P")
BF16, F16, F32, I64, I32, I8 = (
    DType.BF16,
    DType.F16,
    DType.F32,
    DType.I64,
    DType.I32,
    DType.I8,
)


class _Builder:
    """A graph builder of one element type."""

    def __init__(self, name: str, dtype: DType = BF16) -> None:
        self.b = GraphBuilder(name)
        self.dtype = dtype

    def input(self, name: str, *shape: Dim, dtype: DType | None = None) -> Value:
        return self.b.input(name, TensorType(dtype or self.dtype, shape))

    def weight(self, name: str, *shape: int, dtype: DType | None = None) -> Value:
        return self.b.weight(name, TensorType(dtype or self.dtype, shape))

    def one(self, op: str, *inputs: Value, **attrs: Attr) -> Value:
        return self.b.one(op, list(inputs), attrs)

    def finish(self, *outputs: Value) -> Graph:
        return self.b.finish(list(outputs))


def rms_norm(width: int, dtype: DType = BF16) -> Graph:
    """A norm of each row."""
    b = _Builder("rms_norm", dtype)
    return b.finish(b.one("rms_norm", b.input("x", T, width), b.weight("weight", width), eps=1e-6))


def add_rms_norm(width: int, dtype: DType = BF16) -> Graph:
    """The sum of a row and its residual, and the norm of the sum."""
    b = _Builder("add_rms_norm", dtype)
    total = b.one("add", b.input("x", T, width), b.input("residual", T, width))
    return b.finish(total, b.one("rms_norm", total, b.weight("weight", width), eps=1e-6))


def layer_norm(width: int, dtype: DType = BF16) -> Graph:
    """A norm with a mean of each row."""
    b = _Builder("layer_norm", dtype)
    weights = b.weight("weight", width), b.weight("bias", width)
    return b.finish(b.one("layer_norm", b.input("x", T, width), *weights, eps=1e-5))


def glu(width: int, dtype: DType = BF16) -> Graph:
    """A gated unit of two rows."""
    b = _Builder("glu", dtype)
    parts = b.input("gate", T, width), b.input("up", T, width)
    return b.finish(b.one("glu", *parts, activation="silu"))


def softmax(width: int, dtype: DType = F32) -> Graph:
    """Of each row; as long as a vocabulary."""
    b = _Builder("softmax", dtype)
    return b.finish(b.one("softmax", b.input("x", R, width), dim=-1))


def embedding(vocab: int, width: int, dtype: DType = BF16) -> Graph:
    """A row of a table for each token."""
    b = _Builder("embed", dtype)
    return b.finish(
        b.one("embed", b.input("token_ids", T, dtype=I64), b.weight("table", vocab, width))
    )


def final_norm(width: int, dtype: DType = BF16) -> Graph:
    """The norm of the rows whose logits are wanted."""
    b = _Builder("final_norm", dtype)
    rows = b.one("index_select", b.input("x", T, width), b.input("rows", R, dtype=I64), dim=0)
    return b.finish(b.one("rms_norm", rows, b.weight("weight", width), eps=1e-6))


def router(experts: int, k: int, dtype: DType = F32) -> Graph:
    """The experts of each token."""
    b = _Builder("router", dtype)
    logits = b.input("logits", T, experts)
    attrs: dict[str, Attr] = {"k": k, "scores": "softmax", "normalized": True}
    return b.b.finish(b.b.node("moe_router", [logits], attrs))


def write_heads(
    heads: int, kv_heads: int, size: int, *, normed: bool = True, dtype: DType = BF16
) -> Graph:
    """Norms and rotary positions of queries and keys, and the write of keys and values."""
    b = _Builder("heads", dtype)
    q, k, v = (b.input(n, T, h, size) for n, h in (("q", heads), ("k", kv_heads), ("v", kv_heads)))
    cos, sin = (b.input(name, T, size // 2, dtype=F32) for name in ("cos", "sin"))
    slots = b.input("slots", T, dtype=I64)
    state = b.b.input("kv", StateType("kv", (LayerState(kv_heads, size, size, dtype),)))
    if normed:
        q = b.one("rms_norm", q, b.weight("q_norm", size), eps=1e-6)
        k = b.one("rms_norm", k, b.weight("k_norm", size), eps=1e-6)
    turned = b.one("rope", q, cos, sin)
    written = b.one("kv_write", state, b.one("rope", k, cos, sin), v, slots, layer=0)
    return b.finish(turned, written)


def linear(
    n: int,
    k: int,
    *,
    before: str = "",
    after: str = "",
    rows: Dim = T,
    dtype: DType = BF16,
) -> Graph:
    """A linear map; ``before`` rms_norm, ``after`` bias, residual or glu (of two halves of n)."""
    b = _Builder("linear", dtype)
    x = b.input("x", rows, k)
    if before == "rms_norm":
        x = b.one("rms_norm", x, b.weight("norm", k), eps=1e-6)
    bias = [b.weight("bias", n)] if after == "bias" else []
    y = b.one("linear", x, b.weight("weight", n, k), *bias)
    if after == "residual":
        y = b.one("add", b.input("residual", rows, n), y)
    elif after == "glu":
        halves = b.b.node("split", [y], {"dim": 1, "sizes": (n // 2, n // 2)})
        y = b.one("glu", *halves, activation="silu")
    return b.finish(y)


def quantized_linear(
    n: int, k: int, bits: int, group: int, *, weight_only: bool = True, dtype: DType = BF16
) -> Graph:
    """A linear map whose weight has few bits; rows are rounded too, or are not."""
    b = _Builder("quantized", dtype)
    weights = (
        b.weight("weight", n, k, dtype=I8),
        b.weight("scales", n, -(-k // group), dtype=F16),
    )
    attrs: dict[str, Attr] = {"bits": bits, "group": group, "weight_only": weight_only}
    return b.finish(b.one("quantized_linear", b.input("x", T, k), *weights, **attrs))


def fp8_linear(n: int, k: int, block: int, dtype: DType = BF16) -> Graph:
    """A linear map in f8e4m3, with scales of blocks."""
    b = _Builder("fp8", dtype)
    weights = (
        b.weight("weight", n, k, dtype=DType.F8E4M3),
        b.weight("scales", -(-n // block), -(-k // block), dtype=F32),
    )
    return b.finish(b.one("fp8_linear", b.input("x", T, k), *weights, block=block))


def attention(
    heads: int,
    kv_heads: int,
    size: int,
    *,
    value_size: int | None = None,
    latent: bool = False,
    window: int = 0,
    softcap: float = 0.0,
    sinks: bool = False,
    reach: bool = False,
    dtype: DType = BF16,
    kept: DType | None = None,
) -> Graph:
    """Attention over pages."""
    b = _Builder("attention", dtype)
    layer = LayerState(kv_heads, size, value_size or size, kept or dtype, window)
    state = b.b.input("kv", StateType("latent" if latent else "kv", (layer,)))
    told = (
        b.input("starts", S + 1, dtype=I32),
        b.input("lengths", S, dtype=I32),
        b.input("tables", S, P, dtype=I32),
    )
    extra = [b.weight("sinks", heads)] if sinks else []
    extra += [b.input("reaches", T, dtype=I32)] if reach else []
    attrs: dict[str, Attr] = {
        "layer": 0,
        "scale": size**-0.5,
        "window": window,
        "softcap": softcap,
        "sinks": sinks,
        "reach": reach,
    }
    q = b.input("q", T, heads, size)
    return b.finish(b.one("attention", q, state, *told, *extra, **attrs))


def experts(count: int, k: int, width: int, narrow: int, dtype: DType = BF16) -> Graph:
    """The experts that are named for each token, weighted and added up."""
    b = _Builder("experts", dtype)
    operands = (
        b.input("x", T, width),
        b.input("ids", T, k, dtype=I64),
        b.input("weights", T, k),
        b.weight("gate_up", count, 2 * narrow, width),
        b.weight("down", count, width, narrow),
    )
    return b.finish(b.one("moe_experts", *operands, activation="silu"))


def head_matmul(heads: int, inner: int, outer: int, dtype: DType = BF16) -> Graph:
    """Rows of heads, each times its head's own matrix, as latent attention has them."""
    b = _Builder("head_matmul", dtype)
    by_head = b.one("permute", b.input("x", T, heads, inner), dims=(1, 0, 2))
    y = b.one("matmul", by_head, b.weight("weight", heads, inner, outer))
    return b.finish(y)

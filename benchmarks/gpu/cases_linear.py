"""Cases of products: linear maps, with few bits or not, experts, and a matrix for each head."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

from graphopt.codegen.triton.quant_linear import packing_of
from graphopt.gpu_packing import pack_weight
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph
from graphopt.ir.shape import sym
from graphopt.region import Region

from . import graphs, peers
from .case import Case, Peer
from .region import RegionCase, Wanted


def small_linear() -> Iterator[Case]:
    """Ragged sizes, and what stands before and after a product."""
    for rows in (1, 3, 17, 65):
        yield linear(rows, 80, 96)
    yield linear(17, 83, 64)
    yield linear(5, 64, 128, dtype=DType.F32)
    for after in ("bias", "residual", "glu"):
        yield linear(3, 64, 96, after=after)
        yield linear(67, 64, 96, after=after)
    yield linear(3, 64, 96, before="rms_norm")
    yield linear(67, 64, 96, before="rms_norm", after="glu")


def real_linear() -> Iterator[Case]:
    """Layers of models of 8 billion parameters for few rows, and large products."""
    for rows in (1, 4, 16, 64):
        yield linear(rows, 14336, 4096)
    yield linear(1, 6144, 4096, before="rms_norm")
    yield linear(1, 4096, 14336, after="residual")
    yield linear(4, 28672, 4096, before="rms_norm", after="glu")
    yield linear(64, 28672, 4096, after="glu")
    yield linear(1, 128256, 4096, wanted=True)
    yield linear(512, 14336, 4096)
    yield linear(4096, 28672, 4096, after="glu")
    yield linear(8192, 8192, 8192)
    yield linear(8192, 8192, 8192, after="residual")


def small_quantized() -> Iterator[Case]:
    """Four and eight bits, with rows rounded and not."""
    for rows in (1, 3, 17, 65):
        yield quantized(rows, 64, 128, 4, 32)
    yield quantized(3, 64, 256, 8, 128)
    yield quantized(67, 96, 256, 4, 128)
    yield quantized(3, 64, 256, 8, 128, weight_only=False)
    yield quantized(67, 64, 256, 8, 128, weight_only=False)


def real_quantized() -> Iterator[Case]:
    """Four bits for 1 to 16 rows, and more; eight bits."""
    for rows in (1, 2, 4, 8, 16, 64, 512):
        yield quantized(rows, 14336, 4096, 4, 128)
    yield quantized(1, 14336, 4096, 8, 128)
    yield quantized(16, 14336, 4096, 8, 128)
    yield quantized(4096, 14336, 4096, 8, 128, weight_only=False)


def small_fp8() -> Iterator[Case]:
    """Few rows and many."""
    for rows in (1, 17, 65):
        yield fp8(rows, 128, 256)


def real_fp8() -> Iterator[Case]:
    """A decode, and a prefill."""
    for rows in (1, 64, 4096):
        yield fp8(rows, 14336, 4096)


def small_experts() -> Iterator[Case]:
    """A few experts, and tokens that leave some without work."""
    for tokens in (1, 3, 17):
        yield experts(tokens, 8, 2, 64, 32)
        yield head_matmul(tokens, 4, 64, 32)
    yield experts(65, 4, 2, 64, 96)


def real_experts() -> Iterator[Case]:
    """Two large experts of eight, and eight small ones of 128; the products of latent attention."""
    for tokens in (1, 16, 4096):
        yield experts(tokens, 8, 2, 4096, 14336)
    for tokens in (1, 64, 4096):
        yield experts(tokens, 128, 8, 2048, 768)
    for tokens in (64, 4096):
        yield head_matmul(tokens, 128, 128, 512)


def linear(
    rows: int,
    n: int,
    k: int,
    *,
    before: str = "",
    after: str = "",
    wanted: bool = False,
    dtype: DType = DType.BF16,
) -> Case:
    """A linear map; ``wanted``: of the rows whose logits are wanted."""
    symbol = "R" if wanted else "T"
    graph = graphs.linear(n, k, before=before, after=after, rows=sym(symbol), dtype=dtype)
    region = RegionCase(graph, "linear", {symbol: rows})
    words = [word for word in (before, "linear", after) if word]
    eager, around = peers.eager_linear(before, after), bool(before or after)
    # Of a product alone the compiler makes the library's.
    others: dict[str, Peer] = {"torch.mm alone" if around else "torch.mm": peers.torch_mm}
    return region.case(
        f"{'+'.join(words)} {rows} x {n} x {k}{_suffix(dtype)}",
        eager=eager if around else None,
        peers=others,
        flops=2.0 * rows * n * k,
    )


def quantized(
    rows: int, n: int, k: int, bits: int, group: int, *, weight_only: bool = True
) -> Case:
    """A linear map whose weight has few bits."""
    graph = graphs.quantized_linear(n, k, bits, group, weight_only=weight_only)
    fills: Mapping[str, Callable[[Wanted], Tensor]] = {
        "weight": lambda wanted: wanted.below(1 << (bits - 1), -(1 << (bits - 1))),
        "scales": lambda wanted: _scales(wanted, bits, k),
    }
    region = RegionCase(graph, "quantized", {"T": rows}, fills, packed=_packed)
    others: dict[str, Peer] = {"torch.mm bf16": peers.dequantized_mm}
    if bits == 4:
        others["torch int4"] = peers.int4_mm(group)
    return region.case(
        f"W{bits}A{16 if weight_only else 8} {rows} x {n} x {k}, groups of {group}",
        peers=others,
        flops=2.0 * rows * n * k,
        nbytes=n * k * bits / 8 + 2 * n * -(-k // group) + 2 * rows * (n + k),
    )


def fp8(rows: int, n: int, k: int, block: int = 128) -> Case:
    """A linear map in f8e4m3."""
    fills: Mapping[str, Callable[[Wanted], Tensor]] = {
        "scales": lambda wanted: wanted.normal().abs() * float(k**-0.5),
    }
    region = RegionCase(graphs.fp8_linear(n, k, block), "fp8", {"T": rows}, fills)
    return region.case(
        f"fp8 {rows} x {n} x {k}, blocks of {block}",
        peers={"torch.mm bf16": peers.unscaled_mm(block)},
        flops=2.0 * rows * n * k,
    )


def experts(tokens: int, count: int, k: int, width: int, narrow: int) -> Case:
    """A layer of experts."""
    fills = {"ids": _chosen(count), "weights": _shares}
    region = RegionCase(graphs.experts(count, k, width, narrow), "experts", {"T": tokens}, fills)
    others: dict[str, Peer] = {
        "torch": peers.in_pytorch(peers.eager_experts),
        "torch grouped": peers.grouped_experts,
    }
    used = min(count, tokens * k)
    return region.case(
        f"experts {tokens} x {k} of {count} x {width} x {narrow}",
        peers=others,
        flops=6.0 * tokens * k * width * narrow,
        nbytes=2 * (used * 3 * width * narrow + 2 * tokens * width),
    )


def head_matmul(tokens: int, heads: int, inner: int, outer: int) -> Case:
    """A matrix for each head."""
    region = RegionCase(graphs.head_matmul(heads, inner, outer), "matmul", {"T": tokens})
    return region.case(
        f"matmul {tokens} x {heads} x {inner} x {outer}",
        eager=peers.eager_head_matmul,
        flops=2.0 * tokens * heads * inner * outer,
    )


def _scales(wanted: Wanted, bits: int, k: int) -> Tensor:
    """Positive, so that sums keep the magnitude of x."""
    magnitude: float = 2.0 ** (1 - bits) * k**-0.5
    return wanted.normal().abs() * magnitude


def _packed(graph: Graph, region: Region, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A quantized weight as kernels read it."""
    packing = packing_of(graph, region)
    weight, scales = (given[name].cpu().numpy() for name in ("weight", "scales"))
    stored, factors = pack_weight(weight, scales, packing)
    device = given["x"].device
    return {
        "weight": torch.from_numpy(stored).to(device),
        "scales": torch.from_numpy(factors).to(device),
    }


def _chosen(count: int) -> Callable[[Wanted], Tensor]:
    """Experts, no two the same for a token."""

    def ids(wanted: Wanted) -> Tensor:
        shape = (wanted.shape[0], count)
        order = torch.rand(shape, generator=wanted.generator, device=wanted.device).argsort(-1)
        return order[:, : wanted.shape[1]]

    return ids


def _shares(wanted: Wanted) -> Tensor:
    return torch.softmax(wanted.normal().float(), -1)


def _suffix(dtype: DType) -> str:
    return "" if dtype is DType.BF16 else f" {dtype}"

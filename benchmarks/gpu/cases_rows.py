"""Cases of rows: norms, gated units, embeddings, routers, heads and what they write."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from graphopt.ir.dtype import DType

from . import graphs, peers
from .batch import Batch, prefill
from .case import Case, Peer
from .region import RegionCase, Wanted

Fill = Callable[[Wanted], Tensor]


def small_rows() -> Iterator[Case]:
    """One row, a few, and a prime number; widths that divide nothing."""
    for tokens, width in ((1, 64), (3, 96), (17, 83)):
        yield norm(tokens, width)
        yield norm(tokens, width, dtype=DType.F32)
        yield added_norm(tokens, width)
        yield layer_norm(tokens, width)
        yield glu(tokens, width)
        yield softmax(tokens, 3 * width + 1)
        yield embedding(tokens, 50, width)
        yield final_norm(tokens, tokens, width)
        yield router(tokens, 16, 4)
    for queries in ((1,), (1, 5, 1), (17, 1)):
        lengths = tuple(count + place for place, count in enumerate(queries))
        yield heads(Batch(queries, lengths, 16, padding=2), 4, 2, 32)


def real_rows() -> Iterator[Case]:
    """Prefills of 8192 tokens, and decodes, at the widths of models of 8 billion parameters."""
    for tokens in (64, 8192):
        yield norm(tokens, 4096)
        yield added_norm(tokens, 4096)
        yield layer_norm(tokens, 4096)
        yield glu(tokens, 14336)
        yield router(tokens, 128, 8)
    yield embedding(8192, 128256, 4096)
    yield final_norm(8192, 64, 4096)
    yield softmax(64, 128256)
    yield heads(prefill(8192, 128), 32, 8, 128)
    yield heads(Batch((1,) * 64, (1000,) * 64, 128), 32, 8, 128)


def norm(tokens: int, width: int, dtype: DType = DType.BF16) -> Case:
    """``rms_norm``."""
    region = RegionCase(graphs.rms_norm(width, dtype), "row", {"T": tokens})
    return region.case(
        f"rms_norm {tokens} x {width}{_suffix(dtype)}",
        eager=peers.eager_rms_norm,
        peers={"Liger": peers.liger_rms_norm},
    )


def added_norm(tokens: int, width: int) -> Case:
    """``add`` and ``rms_norm``."""
    region = RegionCase(graphs.add_rms_norm(width), "row", {"T": tokens})
    others: dict[str, Peer] = {
        "torch": peers.in_pytorch(peers.eager_add_rms_norm),
        "torch.compile": peers.compiled_add_rms_norm,
        "Liger": peers.liger_add_rms_norm,
    }
    return region.case(f"add+rms_norm {tokens} x {width}", peers=others)


def layer_norm(tokens: int, width: int) -> Case:
    """``layer_norm``."""
    region = RegionCase(graphs.layer_norm(width), "row", {"T": tokens})
    return region.case(
        f"layer_norm {tokens} x {width}",
        eager=peers.eager_layer_norm,
        peers={"Liger": peers.liger_layer_norm},
    )


def glu(tokens: int, width: int) -> Case:
    """A gated unit."""
    region = RegionCase(graphs.glu(width), "pointwise", {"T": tokens})
    return region.case(
        f"silu*up {tokens} x {width}", eager=peers.eager_glu, peers={"Liger": peers.liger_glu}
    )


def softmax(rows: int, width: int) -> Case:
    """A softmax as long as a vocabulary."""
    region = RegionCase(graphs.softmax(width), "row", {"R": rows})
    return region.case(f"softmax {rows} x {width} f32", eager=peers.eager_softmax)


def embedding(tokens: int, vocab: int, width: int) -> Case:
    """Rows of a table."""
    region = RegionCase(
        graphs.embedding(vocab, width), "gather", {"T": tokens}, {"token_ids": _below(vocab)}
    )
    return region.case(
        f"embed {tokens} of {vocab} x {width}",
        eager=peers.eager_embedding,
        nbytes=tokens * (8 + 2 * 2 * width),
    )


def final_norm(tokens: int, rows: int, width: int) -> Case:
    """The norm of the rows that are wanted."""
    sizes = {"T": tokens, "R": rows}
    region = RegionCase(graphs.final_norm(width), "gather", sizes, {"rows": _below(tokens)})
    return region.case(
        f"rows+rms_norm {rows} of {tokens} x {width}",
        eager=peers.eager_final_norm,
        nbytes=rows * (8 + 2 * 2 * width),
    )


def router(tokens: int, experts: int, k: int) -> Case:
    """The experts of each token; no two of a token have one score."""
    region = RegionCase(graphs.router(experts, k), "row", {"T": tokens}, {"logits": _distinct})
    return region.case(f"router {tokens} x {experts}, {k}", eager=peers.eager_router(k))


def heads(batch: Batch, count: int, kv_heads: int, size: int) -> Case:
    """Queries and keys normed and turned; keys and values written."""
    region = RegionCase(
        graphs.write_heads(count, kv_heads, size), "heads", batch.sizes, batch=batch
    )
    elements = batch.sizes["T"] * size
    moved = 2 * 2 * elements * (count + 2 * kv_heads) + 4 * elements
    has_peers = not batch.padding
    return region.case(
        f"norm+rope+write {batch.sizes['T']} x {count}+{kv_heads} x {size}",
        eager=peers.eager_heads if has_peers else None,
        nbytes=moved,
    )


def _below(bound: int) -> Fill:
    return lambda wanted: wanted.below(bound)


def _distinct(wanted: Wanted) -> Tensor:
    """In each row the same numbers in another order."""
    order = torch.rand(wanted.shape, generator=wanted.generator, device=wanted.device).argsort(-1)
    return (order - wanted.shape[-1] / 2) / 16


def _suffix(dtype: DType) -> str:
    return "" if dtype is DType.BF16 else f" {dtype}"

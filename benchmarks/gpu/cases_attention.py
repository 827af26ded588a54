"""Cases of attention over pages: prefills, chunks, decodes, mixed batches."""

from __future__ import annotations

from collections.abc import Iterator

from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph

from . import graphs
from .batch import Batch, decode, prefill
from .case import Case
from .peers_attention import attention_peers
from .region import RegionCase


def small_attention() -> Iterator[Case]:
    """Ragged batches with prefixes, empty sequences and padding, for what models do to scores."""
    ragged = Batch((5, 1, 0, 17), (5, 23, 4, 30), 16, padding=2)
    single = Batch((1,), (1,), 16)
    decodes = Batch((1, 1, 1), (1, 16, 37), 32)
    for batch in (ragged, single, decodes):
        yield attention(batch, 4, 2, 64)
    yield attention(ragged, 4, 1, 128)
    yield attention(ragged, 2, 2, 80)
    yield attention(ragged, 4, 2, 64, window=7)
    yield attention(ragged, 4, 2, 64, softcap=3.0)
    yield attention(ragged, 4, 2, 64, sinks=True)
    yield attention(decodes, 4, 2, 64, sinks=True, window=20)
    yield attention(decodes, 4, 2, 64, dtype=DType.F32)
    yield latent(ragged, 4, 64, 32)


def real_attention() -> Iterator[Case]:
    """Heads of 128: 16384 tokens with pages of 128 and 16, chunks, and decodes of 8192 tokens.

    All attention of the IR is causal. A chunk at the end of a long context sees nearly all of it,
    which is the nearest to attention without a mask.
    """
    for block in (128, 16):
        yield attention(prefill(16384, block), 16, 16, 128)
        yield attention(prefill(2048, block, context=14336), 16, 16, 128)
        yield attention(decode(64, 8192, block), 32, 8, 128)
    yield attention(prefill(16384, 128), 32, 8, 128)
    yield attention(prefill(512, 128), 32, 8, 128)
    yield attention(decode(1, 8192, 128), 32, 8, 128)
    yield attention(decode(1, 65536, 128), 32, 8, 128)
    yield attention(decode(64, 2048, 128), 32, 8, 64)
    yield attention(prefill(8192, 128), 8, 4, 256, window=1024)
    yield attention(Batch((1,) * 63 + (1024,), (4096,) * 63 + (2048,), 128), 32, 8, 128)
    yield latent(decode(32, 4096, 128), 128, 576, 512)


def attention(
    batch: Batch,
    heads: int,
    kv_heads: int,
    size: int,
    *,
    window: int = 0,
    softcap: float = 0.0,
    sinks: bool = False,
    dtype: DType = DType.BF16,
) -> Case:
    """Attention to keys and values."""
    graph = graphs.attention(
        heads, kv_heads, size, window=window, softcap=softcap, sinks=sinks, dtype=dtype
    )
    words = [f"window {window}"] * bool(window) + ["softcap"] * bool(softcap) + ["sinks"] * sinks
    shape = f"{heads}/{kv_heads} x {size}"
    plain = not words and len(set(batch.queries)) == 1 and not batch.padding
    seen = _seen(batch, window)
    kept = batch.sizes["S"] and sum(
        min(length, window + count) if window else length
        for count, length in zip(batch.queries, batch.lengths, strict=True)
    )
    moved = dtype.nbytes * size * (2 * kv_heads * kept + 2 * heads * batch.tokens)
    return _case(
        graph,
        batch,
        " ".join(
            ["attention", _title(batch), shape, *words, *([str(dtype)] * (dtype is not DType.BF16))]
        ),
        flops=4.0 * heads * size * seen,
        nbytes=moved,
        has_peers=plain,
    )


def latent(batch: Batch, heads: int, size: int, value_size: int) -> Case:
    """Attention to keys that hold the values."""
    graph = graphs.attention(heads, 1, size, value_size=value_size, latent=True)
    moved = 2 * (size * sum(batch.lengths) + heads * (size + value_size) * batch.tokens)
    return _case(
        graph,
        batch,
        f"latent attention {_title(batch)} {heads} x {size}",
        flops=2.0 * heads * (size + value_size) * batch.pairs,
        nbytes=moved,
        has_peers=False,
    )


def _case(
    graph: Graph, batch: Batch, name: str, *, flops: float, nbytes: float, has_peers: bool
) -> Case:
    region = RegionCase(graph, "attention", batch.sizes, batch=batch)
    peers = attention_peers() if has_peers else {}
    return region.case(name, peers=peers, flops=flops, nbytes=nbytes)


def _seen(batch: Batch, window: int) -> int:
    """Pairs of a query and a token that it sees."""
    if not window:
        return batch.pairs
    found = 0
    for count, length in zip(batch.queries, batch.lengths, strict=True):
        found += sum(min(window, place + 1) for place in range(length - count, length))
    return found


def _title(batch: Batch) -> str:
    count, longest = len(batch.queries), max(batch.lengths)
    page = f"pages of {batch.block}"
    if set(batch.queries) == {1}:
        return f"decode {count} x {longest}, {page},"
    if count == 1:
        new = batch.queries[0]
        return f"prefill {new}{'' if new == longest else f' of {longest}'}, {page},"
    return f"mixed {batch.tokens} of {count}, {page},"

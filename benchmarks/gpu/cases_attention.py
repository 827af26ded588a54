"""Cases of attention over pages: prefills, chunks, decodes, mixed batches, encoders."""

from __future__ import annotations

from collections.abc import Iterator

from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph

from . import graphs
from .batch import Batch, decode, encoder, prefill
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
    image = Batch((5, 1, 0, 17), (5, 23, 4, 30), 16, padding=2, span=(3, 20))
    for window in (0, 7):
        yield attention(image, 4, 2, 64, window=window)
        yield attention(encoder(3, 37, 16), 2, 2, 64, window=window)


def real_attention() -> Iterator[Case]:
    """Heads of 128: 16384 tokens with pages of 128 and 16, chunks, and decodes of 8192 tokens.

    Encoders have heads of 64 (BERT's), windows both ways (ModernBERT's) or heads of 256
    (EmbeddingGemma's); an image of 256 tokens stands in a text.
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
    yield attention(encoder(64, 512, 128), 12, 12, 64)
    yield attention(encoder(64, 512, 128), 16, 16, 64)
    yield attention(encoder(1, 512, 128), 12, 12, 64)
    yield attention(encoder(8, 8192, 128), 12, 12, 64, window=65)
    yield attention(encoder(32, 2048, 128), 3, 1, 256, window=257)
    image = Batch((2048,), (4096,), 128, span=(3000, 3256))
    yield attention(image, 8, 4, 256)
    yield attention(image, 8, 4, 256, window=1024)


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
    reach = batch.span is not None
    graph = graphs.attention(
        heads,
        kv_heads,
        size,
        window=window,
        softcap=softcap,
        sinks=sinks,
        reach=reach,
        dtype=dtype,
    )
    words = [f"window {window}"] * bool(window) + ["softcap"] * bool(softcap) + ["sinks"] * sinks
    shape = f"{heads}/{kv_heads} x {size}"
    plain = not words and len(set(batch.queries)) == 1 and not batch.padding
    plain = plain and (batch.is_whole or not reach)
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
        flops=4.0 * heads * size * batch.pairs(window),
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
        flops=2.0 * heads * (size + value_size) * batch.pairs(),
        nbytes=moved,
        has_peers=False,
    )


def _case(
    graph: Graph, batch: Batch, name: str, *, flops: float, nbytes: float, has_peers: bool
) -> Case:
    fills = {"reaches": lambda wanted: batch.reaches(wanted.device)}
    region = RegionCase(graph, "attention", batch.sizes, fills, batch)
    peers = attention_peers(causal=not batch.is_whole) if has_peers else {}
    return region.case(name, peers=peers, flops=flops, nbytes=nbytes)


def _title(batch: Batch) -> str:
    count, longest = len(batch.queries), max(batch.lengths)
    page = f"pages of {batch.block}"
    if batch.is_whole:
        return f"encoder {count} x {longest}, {page},"
    if batch.span is not None:
        page = f"span {batch.span[0]} to {batch.span[1]}, {page}"
    if set(batch.queries) == {1}:
        return f"decode {count} x {longest}, {page},"
    if count == 1:
        new = batch.queries[0]
        return f"prefill {new}{'' if new == longest else f' of {longest}'}, {page},"
    return f"mixed {batch.tokens} of {count}, {page},"

"""Writing and reading keys and values in pages, in PyTorch, one sequence after the other.

``ops_state`` defines what is computed. Sequences with one query each, which is what decoding gives,
are computed together. Nothing outside a sequence's own, visible positions is read into the result,
not even times zero: memory that was never written may hold anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from graphopt.errors import IRError

from .graph import Node
from .ops_spec import bool_of, float_of, int_of, str_of
from .reference_common import Env, Step, wide_dtype
from .reference_scores import Expression, mask_expression, score_expression

# Most scores held at once, in elements: 64 MB of float32.
_MAX_SCORES = 1 << 24
# Most elements of keys gathered at once for several sequences: 16 MB of float32.
_MAX_GATHERED = 1 << 22


def make_kv_write(node: Node) -> Step:
    """Writes a step's keys and values into a layer's slots, in place."""
    layer = int_of(node.attrs, "layer")

    def run(values: Sequence[Any], env: Env) -> tuple[Any, ...]:
        state, key, value, slots = values
        _store(((state.keys[layer], key), (state.values[layer], value)), slots)
        return (state,)

    return run


def make_latent_write(node: Node) -> Step:
    """Writes a step's keys, which hold the values, into a layer's slots, in place."""
    layer = int_of(node.attrs, "layer")

    def run(values: Sequence[Any], env: Env) -> tuple[Any, ...]:
        state, key, slots = values
        _store(((state.keys[layer], key),), slots)
        return (state,)

    return run


def _store(pairs: Iterable[tuple[Tensor, Tensor]], slots: Tensor) -> None:
    """Writes new rows into memory, for each pair of those, but where the slot is -1."""
    kept = slots >= 0 if slots.numel() and bool((slots < 0).any()) else None
    for memory, new in pairs:
        rows, where = (new, slots) if kept is None else (new[kept], slots[kept])
        rows, flat = narrowed(rows, memory.dtype), memory.view(-1, *memory.shape[2:])
        if memory.itemsize == 1:  # PyTorch moves bytes where it does not move fp8
            rows, flat = rows.view(torch.uint8), flat.view(torch.uint8)
        flat.index_copy_(0, where, rows)


def narrowed(rows: Tensor, dtype: torch.dtype) -> Tensor:
    """Rows as a state keeps them; beyond what fp8 can say stands its greatest number."""
    if dtype.itemsize == 1 and dtype.is_floating_point:
        most = torch.finfo(dtype).max
        rows = rows.float().clamp(-most, most)
    return rows.to(dtype)


@dataclass(frozen=True, slots=True)
class _Settings:
    layer: int
    scale: float
    window: int
    softcap: float
    score: Expression | None
    mask: Expression | None


@dataclass(frozen=True, slots=True)
class _Places:
    """Where scores [Hq, n, m] belong.

    Attributes:
        queries: positions of the queries, [n].
        keys: positions of the keys, [m] or [n, m].
        sequences: numbers of the queries' sequences, [n].
    """

    queries: Tensor
    keys: Tensor
    sequences: Tensor


@dataclass(frozen=True, slots=True)
class _Memory:
    """One layer's blocks, and what its heads add to their scores."""

    keys: Tensor
    values: Tensor
    block_size: int
    is_latent: bool
    sinks: Tensor | None
    alibi: Tensor | None
    reaches: Tensor | None


def make_attention(node: Node) -> Step:
    """Attends to a layer's keys and values through block tables."""
    settings = _Settings(
        int_of(node.attrs, "layer"),
        float_of(node.attrs, "scale"),
        int_of(node.attrs, "window"),
        float_of(node.attrs, "softcap"),
        score_expression(str_of(node.attrs, "score") if "score" in node.attrs else ""),
        mask_expression(str_of(node.attrs, "mask") if "mask" in node.attrs else ""),
    )
    has_sinks, has_alibi = bool_of(node.attrs, "sinks"), bool_of(node.attrs, "alibi")
    has_reach = bool_of(node.attrs, "reach")

    def run(values: Sequence[Any], env: Env) -> tuple[Any, ...]:
        query, state, starts, lengths, tables = values[:5]
        wide = wide_dtype(query.dtype)
        memory = _Memory(
            state.keys[settings.layer],
            state.values[settings.layer],
            state.block_size,
            state.is_latent,
            values[5].to(wide) if has_sinks else None,
            values[5 + has_sinks].to(wide) if has_alibi else None,
            values[-1] if has_reach else None,
        )
        return (_attention(settings, memory, query, starts.tolist(), lengths.tolist(), tables),)

    return run


def _attention(
    settings: _Settings,
    memory: _Memory,
    query: Tensor,
    starts: list[int],
    lengths: list[int],
    tables: Tensor,
) -> Tensor:
    out = query.new_zeros(query.shape[0], query.shape[1], memory.values.shape[-1])
    singles: list[int] = []
    for sequence, length in enumerate(lengths):
        first, last = starts[sequence], starts[sequence + 1]
        if last - first > length:
            raise IRError(
                f"sequence {sequence} has more queries than tokens",
                got=f"{last - first} queries",
                expected=f"at most {length}",
            )
        if last - first == 1:
            singles.append(sequence)
        elif last > first:
            reaches = None if memory.reaches is None else memory.reaches[first:last]
            out[first:last] = _one_sequence(
                settings, memory, query[first:last], length, tables[sequence], sequence, reaches
            )
    for group in _alike(singles, lengths, memory):
        if len(group) == 1:
            rows = slice(starts[group[0]], starts[group[0]] + 1)
            out[rows] = _one_sequence(
                settings, memory, query[rows], lengths[group[0]], tables[group[0]], group[0]
            )
        else:
            index = torch.tensor([starts[sequence] for sequence in group], device=query.device)
            held = torch.tensor([lengths[sequence] for sequence in group], device=query.device)
            sequences = torch.tensor(group, device=query.device)
            out[index] = _decodes(
                settings, memory, query[index], held, tables[sequences], sequences
            )
    return out


def _alike(sequences: list[int], lengths: list[int], memory: _Memory) -> list[list[int]]:
    """Sequences in groups of similar length, whose keys fit ``_MAX_GATHERED`` when padded."""
    most = _MAX_GATHERED // (memory.keys.shape[2] * memory.keys.shape[3])
    groups: list[list[int]] = []
    for sequence in sorted(sequences, key=lengths.__getitem__):
        if groups and (len(groups[-1]) + 1) * lengths[sequence] <= most:
            groups[-1].append(sequence)
        else:
            groups.append([sequence])
    return groups


def _one_sequence(
    settings: _Settings,
    memory: _Memory,
    query: Tensor,
    length: int,
    table: Tensor,
    sequence: int,
    reaches: Tensor | None = None,
) -> Tensor:
    """``query[n, Hq, Dk]``, the last n positions of a sequence, to ``[n, Hq, Dv]``.

    A single query is the last of all positions: none is left for it to reach.
    """
    count, size = query.shape[0], memory.block_size
    low = max(0, length - count - settings.window + 1) if settings.window else 0
    blocks = table[low // size : -(-length // size)].long()
    inside = slice(low - low // size * size, length - low // size * size)
    keys = memory.keys[blocks].flatten(0, 1)[inside].to(wide_dtype(query.dtype))
    if memory.is_latent:
        values = keys[..., : memory.values.shape[-1]]
    else:
        values = memory.values[blocks].flatten(0, 1)[inside].to(keys.dtype)
    positions = torch.arange(low, length, device=query.device)

    def places(own: Tensor) -> _Places:
        return _Places(own, positions, torch.full_like(own, sequence))

    if count == 1:
        own = torch.full((1,), length - 1, device=query.device)
        return _attend(settings, memory, query, keys, values, places(own), None)
    rows = max(1, _MAX_SCORES // (query.shape[1] * (length - low)))
    parts: list[Tensor] = []
    for start in range(0, count, rows):
        chunk = query[start : start + rows]
        own = torch.arange(start, start + chunk.shape[0], device=query.device) + (length - count)
        ends = own + 1
        if reaches is not None:
            ends = torch.maximum(ends, reaches[start : start + rows])
        hidden = positions[None, :] >= ends[:, None]
        if settings.window:
            hidden |= (positions[None, :] - own[:, None]).abs() >= settings.window
        parts.append(_attend(settings, memory, chunk, keys, values, places(own), hidden))
    return torch.cat(parts)


def _attend(
    settings: _Settings,
    memory: _Memory,
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    places: _Places,
    hidden: Tensor | None,
) -> Tensor:
    """``query[n, Hq, Dk]``, ``keys[m, Hkv, Dk]``, ``values[m, Hkv, Dv]``, ``hidden[n, m]``."""
    count, heads, size = query.shape
    groups = heads // keys.shape[1]
    grouped = query.to(keys.dtype).reshape(count, -1, groups, size).permute(1, 2, 0, 3)
    scores = grouped.reshape(keys.shape[1], groups * count, size) @ keys.permute(1, 2, 0)
    scores = _shaped(settings, memory, scores.view(heads, count, -1), places)
    if hidden is not None:
        scores = scores.masked_fill(hidden, float("-inf"))
    sinks = None if memory.sinks is None else memory.sinks.view(heads, 1, 1)
    weights = _softmax(scores, sinks).view(keys.shape[1], groups * count, -1)
    result = (weights @ values.transpose(0, 1)).view(heads, count, -1)
    return result.transpose(0, 1).to(query.dtype)


def _decodes(
    settings: _Settings,
    memory: _Memory,
    query: Tensor,
    lengths: Tensor,
    tables: Tensor,
    sequences: Tensor,
) -> Tensor:
    """One query of each of n sequences: ``query[n, Hq, Dk]`` to ``[n, Hq, Dv]``."""
    size, (count, heads, _) = memory.block_size, query.shape
    low = (lengths - settings.window).clamp(min=0) if settings.window else torch.zeros_like(lengths)
    first, last = low // size, (lengths + size - 1) // size
    reach = torch.arange(int((last - first).max()), device=query.device)
    index = first[:, None] + reach
    blocks = tables.long().gather(1, index.clamp(max=tables.shape[1] - 1))
    blocks = blocks.masked_fill(index >= last[:, None], 0)
    offsets = torch.arange(size, device=query.device)
    positions = (index[:, :, None] * size + offsets).flatten(1)
    seen = (positions < lengths[:, None]) & (positions >= low[:, None])
    wide = wide_dtype(query.dtype)
    keys = _by_head(memory.keys[blocks], wide)
    if memory.is_latent:
        values = keys[..., : memory.values.shape[-1]]
    else:
        values = _by_head(memory.values[blocks], wide)
    values.transpose(1, 2)[~seen] = 0
    kv_heads = keys.shape[1]
    grouped = query.to(wide).reshape(count * kv_heads, -1, query.shape[2])
    scores = torch.bmm(grouped, keys.flatten(0, 1).transpose(1, 2)).view(count, heads, -1)
    places = _Places(lengths - 1, positions, sequences)
    scores = _shaped(settings, memory, scores.transpose(0, 1), places).transpose(0, 1)
    scores = scores.masked_fill(~seen[:, None, :], float("-inf"))
    sinks = None if memory.sinks is None else memory.sinks.view(1, heads, 1)
    weights = _softmax(scores, sinks).reshape(count * kv_heads, heads // kv_heads, -1)
    return torch.bmm(weights, values.flatten(0, 1)).view(count, heads, -1).to(query.dtype)


def _by_head(blocks: Tensor, dtype: torch.dtype) -> Tensor:
    """``blocks[n, P, B, Hkv, D]``, gathered, to ``[n, Hkv, P * B, D]``, in one copy."""
    by_head = blocks.permute(0, 3, 1, 2, 4)
    return by_head.to(dtype, memory_format=torch.contiguous_format, copy=True).flatten(2, 3)


def _shaped(settings: _Settings, memory: _Memory, scores: Tensor, places: _Places) -> Tensor:
    """``scores[Hq, n, m]`` scaled, capped, leaning by positions, and as the expressions say."""
    scores = scores * settings.scale
    if settings.softcap:
        scores = settings.softcap * torch.tanh(scores / settings.softcap)
    if memory.alibi is not None:
        scores = scores + memory.alibi.view(-1, 1, 1) * places.keys
    if settings.score is None and settings.mask is None:
        return scores
    heads = torch.arange(scores.shape[0], device=scores.device).view(-1, 1, 1)
    named = {
        "q": places.queries.view(1, -1, 1),
        "k": places.keys.expand(scores.shape[1:]).unsqueeze(0),
        "head": heads,
        "sequence": places.sequences.view(1, -1, 1),
    }
    names = {name: tensor.to(scores.dtype) for name, tensor in named.items()}
    if settings.score is not None:
        scores = settings.score({**names, "score": scores}).expand(scores.shape)
    if settings.mask is not None:
        scores = scores.masked_fill(~settings.mask(names), float("-inf"))
    return scores


def _softmax(scores: Tensor, sinks: Tensor | None) -> Tensor:
    """Over the last dimension, with one more score a head where there are sinks.

    Where nothing is seen all weights are zero.
    """
    if sinks is None:
        return torch.softmax(scores, -1).masked_fill(_nothing(scores), 0)
    whole = torch.cat((scores, sinks.expand(*scores.shape[:-1], 1)), -1)
    return torch.softmax(whole, -1).masked_fill(_nothing(whole), 0)[..., :-1]


def _nothing(scores: Tensor) -> Tensor:
    return scores.amax(-1, keepdim=True) == float("-inf")

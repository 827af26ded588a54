"""The sampling parameters of a batch's rows as arrays; what no row uses is left out."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from .executor import F32, I64, U32, Masks, Penalties, Ragged, SamplingInputs
from .sampling_params import SamplingParams
from .scheduler import Batch, Scheduled

_NO_TOKENS: I64 = np.empty(0, dtype=np.int64)


def sampling_inputs(batch: Batch) -> SamplingInputs:
    """The parameters of all rows of ``batch``, part after part."""
    parts = [part for part in batch if part.rows]
    num_rows = sum(part.rows for part in parts)
    if all(part.sequence.plain for part in parts):
        return SamplingInputs(num_rows)
    params = [part.sequence.params for part in parts]
    rows = np.array([part.rows for part in parts], dtype=np.int64)

    random = any(not one.greedy for one in params)
    sequences = [part.sequence for part in parts]
    return SamplingInputs(
        num_rows,
        targets=_targets(parts),
        temperature=_floats([one.temperature for one in params], 0.0, rows) if random else None,
        top_k=_top_k(params, rows) if random else None,
        top_p=_floats([one.top_p for one in params], 1.0, rows) if random else None,
        min_p=_floats([one.min_p for one in params], 0.0, rows) if random else None,
        penalties=_penalties(parts, rows),
        bias=_lists(parts, _bias),
        allowed=_lists(parts, _allowed),
        banned=_lists(parts, _banned),
        masks=_masks(parts, num_rows),
        seeds=_unsigned([one.request.seed for one in sequences], rows) if random else None,
        streams=_unsigned([one.index for one in sequences], rows) if random else None,
        counters=_unsigned([one.num_drawn for one in sequences], rows) if random else None,
        num_logprobs=_num_logprobs(parts),
    )


def _floats(values: list[float], neutral: float, rows: I64) -> F32 | None:
    if all(value == neutral for value in values):
        return None
    return np.repeat(np.array(values, dtype=np.float32), rows)


def _top_k(params: list[SamplingParams], rows: I64) -> I64 | None:
    values = [max(0, one.top_k) for one in params]
    return np.repeat(np.array(values, dtype=np.int64), rows) if any(values) else None


def _unsigned(values: list[int], rows: I64) -> npt.NDArray[np.uint64]:
    return np.repeat(np.array(values, dtype=np.uint64), rows)


def _targets(parts: list[Scheduled]) -> I64 | None:
    """The prompt tokens to score, -1 where a token is sampled; None if none is scored."""
    if not any(part.sequence.scores_prompt for part in parts):
        return None
    columns = []
    for part in parts:
        column = np.full(part.rows, -1, dtype=np.int64)
        scored = part.rows - int(part.samples)
        first = part.stop - part.rows + 1
        column[:scored] = part.sequence.tokens(first, first + scored)
        columns.append(column)
    return np.concatenate(columns)


def _num_logprobs(parts: list[Scheduled]) -> I64 | None:
    """How many likely tokens each row reports, -1 for no report; None if no row does."""
    columns = []
    for part in parts:
        scored, sampled = part.sequence.params.prompt_logprobs, part.sequence.params.logprobs
        column = np.full(part.rows, -1 if scored is None else scored, dtype=np.int64)
        if part.samples:
            column[-1] = -1 if sampled is None else sampled
        columns.append(column)
    wanted = np.concatenate(columns)
    return wanted if (wanted >= 0).any() else None


Entry = tuple[I64, F32]


def _lists(parts: list[Scheduled], entry: Callable[[Scheduled], Entry | None]) -> Ragged | None:
    """The lists that ``entry`` gives for the sampled rows; None if it gives none at all."""
    sizes, tokens, values = [], [_NO_TOKENS], [np.empty(0, dtype=np.float32)]
    for part in parts:
        sizes += [0] * part.rows
        found = entry(part) if part.samples else None
        if found is not None:
            sizes[-1] = len(found[0])
            tokens.append(found[0])
            values.append(found[1])
    if len(tokens) == 1:
        return None
    starts = np.zeros(len(sizes) + 1, dtype=np.int64)
    np.cumsum(sizes, out=starts[1:])
    return Ragged(starts, np.concatenate(tokens), np.concatenate(values))


def _bias(part: Scheduled) -> Entry | None:
    bias = part.sequence.params.logit_bias
    if not bias:
        return None
    return np.array(list(bias), dtype=np.int64), np.array(list(bias.values()), dtype=np.float32)


def _allowed(part: Scheduled) -> Entry | None:
    allowed = part.sequence.params.allowed_ids
    if allowed is None:
        return None
    return np.array(allowed, dtype=np.int64), np.zeros(len(allowed), dtype=np.float32)


def _banned(part: Scheduled) -> Entry | None:
    """Stop tokens, until there are ``min_tokens``."""
    sequence = part.sequence
    if not sequence.stop_ids or sequence.num_drawn >= sequence.params.min_tokens:
        return None
    stops = np.array(sorted(sequence.stop_ids), dtype=np.int64)
    return stops, np.zeros(len(stops), dtype=np.float32)


def _masks(parts: list[Scheduled], num_rows: int) -> Masks | None:
    """The masks of the sampled rows of constrained sequences; None if there is none."""
    found: list[U32] = []
    places, end = np.full(num_rows, -1, dtype=np.int64), 0
    for part in parts:
        end += part.rows
        if part.samples and part.sequence.matcher is not None:
            places[end - 1] = len(found)
            found.append(part.sequence.matcher.mask)
    return Masks(places, np.stack(found)) if found else None


def _seen(part: Scheduled) -> Entry | None:
    counts = part.sequence.counts
    return None if counts is None else (counts.tokens, counts.counts.astype(np.float32))


def _penalties(parts: list[Scheduled], rows: I64) -> Penalties | None:
    seen = _lists(parts, _seen)
    if seen is None:
        return None
    params = [part.sequence.params for part in parts]
    repetition = np.array([one.repetition_penalty for one in params], dtype=np.float32)
    presence = np.array([one.presence_penalty for one in params], dtype=np.float32)
    frequency = np.array([one.frequency_penalty for one in params], dtype=np.float32)
    return Penalties(
        np.repeat(repetition, rows), np.repeat(presence, rows), np.repeat(frequency, rows), seen
    )

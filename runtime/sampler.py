"""Logits to tokens in numpy: what every other sampler is measured against, and the CPU's own.

    logits --bias, allowed--> --penalties--> --banned, masks--> / temperature
           --min-p, top-k, top-p--> draw

Each filter works on what the one before it left, renormalised. The draw inverts the cumulative
distribution in token order at one random number, so it needs no sorting. Log-probabilities are
those of the unmodified logits. Work is cut into runs of rows, so that memory stays bounded, and
rows that need nothing but an argmax get nothing more.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .executor import (
    F32,
    F64,
    I64,
    U8,
    Masks,
    Penalties,
    Ragged,
    RowStatus,
    Sampled,
    SamplingInputs,
)
from .philox import uniform
from .sampling_params import GREEDY_TEMPERATURE

# Elements of logits worked on at once: 16 MiB in float32, and a few times that in temporaries.
_RUN_ELEMENTS = 4 << 20

Mask = npt.NDArray[np.bool_]


def sample(logits: F32, inputs: SamplingInputs) -> Sampled:
    """Choose or score one token per row.

    Args:
        logits: f32[R, V], not changed; -inf marks an impossible token.
        inputs: parameters of the R rows.
    """
    rows, vocab = logits.shape
    if rows == 0:
        return Sampled(np.empty(0, dtype=np.int64))
    tokens = logits.argmax(axis=1).astype(np.int64)
    status = _judge(np.take_along_axis(logits, tokens[:, None], axis=1)[:, 0])
    busy = _needs_work(inputs) & (status == RowStatus.OK)
    run = max(1, _RUN_ELEMENTS // vocab)
    for start in range(0, rows, run):
        part = slice(start, min(start + run, rows))
        if busy[part].any():
            chosen, verdict = _choose(logits[part], inputs.slice(part.start, part.stop), busy[part])
            np.copyto(tokens[part], chosen, where=busy[part])
            np.copyto(status[part], verdict, where=busy[part])
    if inputs.targets is not None:
        tokens = np.where(inputs.targets >= 0, inputs.targets, tokens)
    result = Sampled(tokens, status if status.any() else None)
    return result if inputs.num_logprobs is None else _report(logits, result, inputs.num_logprobs)


def _judge(peak: F32) -> U8:
    """Status of rows by their largest logit; numpy's argmax finds a NaN before any number."""
    status = np.zeros(len(peak), dtype=np.uint8)
    status[np.isnan(peak) | (peak == np.inf)] = RowStatus.NOT_FINITE
    status[peak == -np.inf] = RowStatus.NOTHING_LEFT
    return status


def _needs_work(inputs: SamplingInputs) -> Mask:
    """Rows, bool[R], whose token is more than the place of the largest logit."""
    busy = np.zeros(inputs.num_rows, dtype=np.bool_)
    if inputs.temperature is not None:
        busy |= inputs.temperature >= GREEDY_TEMPERATURE
    for ragged in (inputs.bias, inputs.allowed, inputs.banned):
        if ragged is not None:
            busy |= np.diff(ragged.starts) > 0
    if inputs.masks is not None:
        busy |= inputs.masks.rows >= 0
    if inputs.penalties is not None:
        busy |= np.diff(inputs.penalties.seen.starts) > 0
    if inputs.targets is not None:
        busy &= inputs.targets < 0
    return busy


def _choose(logits: F32, inputs: SamplingInputs, busy: Mask) -> tuple[I64, U8]:
    """Tokens i64[R] and status u8[R] of a run of rows; those that are not ``busy`` mean nothing."""
    work = np.where(busy[:, None], logits, np.float32(0.0))
    if inputs.bias is not None:
        work[inputs.bias.rows, inputs.bias.tokens] += inputs.bias.values
    if inputs.allowed is not None:
        _keep_allowed(work, inputs.allowed)
    if inputs.penalties is not None:
        _penalize(work, inputs.penalties)
    if inputs.banned is not None:
        work[inputs.banned.rows, inputs.banned.tokens] = -np.inf
    if inputs.masks is not None:
        _keep_masked(work, inputs.masks)
    best = work.argmax(axis=1)
    peak = np.take_along_axis(work, best[:, None], axis=1)[:, 0]
    status = _judge(peak)
    if inputs.temperature is None:
        return best, status
    random = (inputs.temperature >= GREEDY_TEMPERATURE) & (status == RowStatus.OK) & busy
    with np.errstate(
        all="ignore"
    ):  # a logit that the temperature lifts out of range is the only one
        random &= np.isfinite(peak / inputs.temperature)
    (drawing,) = np.nonzero(random)
    if len(drawing):
        scaled = work[drawing]
        with np.errstate(over="ignore"):
            scaled /= inputs.temperature[drawing, None]
        best[drawing] = _draw(_filter(scaled, inputs, drawing), inputs, drawing)
    return best, status


def _keep_allowed(work: F32, allowed: Ragged) -> None:
    """Mask, in place, all but the allowed tokens of rows that have a list."""
    (listed,) = np.nonzero(np.diff(allowed.starts) > 0)
    kept = work[allowed.rows, allowed.tokens]
    work[listed] = -np.inf
    work[allowed.rows, allowed.tokens] = kept


def _keep_masked(work: F32, masks: Masks) -> None:
    """Mask, in place, the tokens of rows with a mask whose bit is not set."""
    (masked,) = np.nonzero(masks.rows >= 0)
    octets = masks.words[masks.rows[masked]].astype("<u4").view(np.uint8)
    bits = np.unpackbits(octets, axis=1, count=work.shape[1], bitorder="little")
    work[masked] = np.where(bits != 0, work[masked], np.float32(-np.inf))


def _penalize(work: F32, penalties: Penalties) -> None:
    """Apply, in place, the penalties to the tokens that were seen."""
    rows, tokens, counts = penalties.seen.rows, penalties.seen.tokens, penalties.seen.values
    values = work[rows, tokens]
    repetition = penalties.repetition[rows]
    values = np.where(values > 0, values / repetition, values * repetition)
    values -= penalties.frequency[rows] * counts
    values -= penalties.presence[rows] * (counts > 0)
    work[rows, tokens] = values


def _filter(work: F32, inputs: SamplingInputs, rows: I64) -> F32:
    """``work`` f32[len(rows), V], scaled by temperature, with what min-p, top-k and top-p drop."""
    vocab = work.shape[1]
    if inputs.min_p is not None:
        with np.errstate(divide="ignore"):
            margin = np.log(inputs.min_p[rows])
        work[work < work.max(axis=1, keepdims=True) + margin[:, None]] = -np.inf
    if inputs.top_k is not None:
        wanted = inputs.top_k[rows]
        (cut,) = np.nonzero((wanted > 0) & (wanted < vocab))
        if len(cut):
            places = vocab - wanted[cut]
            parted = np.partition(work[cut], np.unique(places), axis=1)
            least = np.take_along_axis(parted, places[:, None], axis=1)
            work[cut] = np.where(work[cut] < least, np.float32(-np.inf), work[cut])
    if inputs.top_p is not None:
        for row, mass in enumerate(inputs.top_p[rows].astype(np.float64)):
            if mass < 1.0:
                _keep_nucleus(work[row], mass)
    return work


def _keep_nucleus(row: F32, mass: float) -> None:
    """Mask, in place, all but the fewest most likely tokens whose probabilities reach ``mass``.

    Holtzman et al. 2020, "The curious case of neural text degeneration", section 3.1. Tokens below
    (1 - mass) / V lie outside in any case, since all of them together miss less than 1 - mass; so
    only the few above that need sorting. Half of the bound is used, to be safe from rounding.
    """
    probabilities = _softmax(row[None])[0]
    (likely,) = np.nonzero(probabilities >= 0.5 * (1.0 - mass) / len(row))
    order = likely[np.argsort(-row[likely], kind="stable")]
    sums = np.cumsum(probabilities[order])
    count = 1 + int(np.searchsorted(sums[:-1], mass, side="left"))
    kept = order[:count]
    values = row[kept]
    row[:] = -np.inf
    row[kept] = values


def _softmax(work: F32) -> F64:
    """Probabilities f64[R, V]."""
    wide = work.astype(np.float64)
    wide -= wide.max(axis=1, keepdims=True)
    np.exp(wide, out=wide)
    wide /= wide.sum(axis=1, keepdims=True)
    return wide


def _draw(work: F32, inputs: SamplingInputs, rows: I64) -> I64:
    """One token per row, i64[len(rows)], by inverting the distribution at a random number."""
    numbers = uniform(*(one[rows] for one in inputs.randomness()))
    sums = np.cumsum(_softmax(work), axis=1)
    total = sums[:, -1]
    # Rounding must not lift the point to the total, which no partial sum exceeds.
    points = np.minimum(numbers * total, np.nextafter(total, 0.0))
    first: I64 = (sums > points[:, None]).argmax(axis=1)
    return first


def _report(logits: F32, result: Sampled, wanted: I64) -> Sampled:
    """``result`` with log-probabilities for the rows that want them (``wanted`` >= 0)."""
    rows, vocab = logits.shape
    most = min(int(wanted.max(initial=0)), vocab)
    logprobs = np.full(rows, np.nan, dtype=np.float32)
    ranks = np.zeros(rows, dtype=np.int64)
    top_ids = np.zeros((rows, max(most, 0)), dtype=np.int64)
    top_logprobs = np.full(top_ids.shape, np.nan, dtype=np.float32)
    sound = wanted >= 0 if result.status is None else (wanted >= 0) & (result.status == 0)
    for row in np.nonzero(sound)[0]:
        values = logits[row].astype(np.float64)
        peak = values.max()
        scale = peak + np.log(np.exp(values - peak).sum())
        chosen = values[result.token_ids[row]]
        logprobs[row] = chosen - scale
        ranks[row] = 1 + np.count_nonzero(values > chosen)
        if count := min(int(wanted[row]), vocab):
            ids = _most_likely(values, count)
            top_ids[row, :count] = ids
            top_logprobs[row, :count] = values[ids] - scale
    return Sampled(result.token_ids, result.status, logprobs, ranks, top_ids, top_logprobs)


def _most_likely(values: F64, count: int) -> I64:
    """Places of the ``count`` largest values, i64[count], largest first, equal ones in order."""
    least = np.partition(values, len(values) - count)[len(values) - count]
    (places,) = np.nonzero(values >= least)
    order = np.argsort(-values[places], kind="stable")[:count]
    return np.asarray(places[order], dtype=np.int64)

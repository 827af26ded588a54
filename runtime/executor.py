"""What stands between the engine and a model: one step's inputs, one step's tokens.

An executor owns the weights and the KV memory and runs a plan. The engine hands it integers and
sampling parameters and gets integers and log-probabilities back; it never sees a logit. Optional
arrays are None when no row of the step uses the feature, so a greedy step carries almost nothing.

Letters: ``T`` tokens, ``S`` sequences, ``R`` rows whose logits are wanted, ``P`` blocks in the
longest table, ``N`` entries of a ragged list, ``K`` most reported tokens.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, fields
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from graphopt.embedding import Embedding
from graphopt.errors import UsageError

I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]
U32 = npt.NDArray[np.uint32]
U64 = npt.NDArray[np.uint64]
F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
U8 = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class StepInputs:
    """The inputs of a compiled decoder. The arrays are the runner's buffers, valid for one step.

    Attributes:
        token_ids: i64[T], sequence after sequence.
        positions: i64[T], each token's position in its sequence.
        rows: i64[R], increasing places in 0..T whose logits are wanted; R may be 0.
        slots: i64[T], where each token's keys and values go: block * block_size + offset.
        starts: i32[S+1], where each sequence's tokens start in 0..T.
        lengths: i32[S], tokens of each sequence's context after this step.
        tables: i32[S, P], blocks of each sequence in order, filled up with 0.
        reaches: i32[T], how many tokens of its sequence each token sees at least; None where the
            plan has no such input, and each sees itself and what comes before.
    """

    token_ids: I64
    positions: I64
    rows: I64
    slots: I64
    starts: I32
    lengths: I32
    tables: I32
    reaches: I32 | None = None


@dataclass(frozen=True, slots=True)
class Ragged:
    """One list of tokens with a value each per row: row r has entries starts[r] to starts[r+1].

    Attributes:
        starts: i64[R+1].
        tokens: i64[N].
        values: f32[N].
    """

    starts: I64
    tokens: I64
    values: F32

    def slice(self, start: int, stop: int) -> Ragged:
        """The lists of rows ``start`` to ``stop``."""
        low, high = int(self.starts[start]), int(self.starts[stop])
        starts = self.starts[start : stop + 1] - low
        return Ragged(starts, self.tokens[low:high], self.values[low:high])

    @property
    def rows(self) -> I64:
        """The row of each entry, i64[N]."""
        return np.repeat(np.arange(len(self.starts) - 1), np.diff(self.starts))


@dataclass(frozen=True, slots=True)
class Penalties:
    """Penalties of each row, and the tokens they fall on.

    Attributes:
        repetition: f32[R], 1 for none.
        presence: f32[R], 0 for none.
        frequency: f32[R], 0 for none.
        seen: tokens of prompt and output, each once, with how often they occur in the output.
    """

    repetition: F32
    presence: F32
    frequency: F32
    seen: Ragged

    def slice(self, start: int, stop: int) -> Penalties:
        """The penalties of rows ``start`` to ``stop``."""
        return Penalties(
            self.repetition[start:stop],
            self.presence[start:stop],
            self.frequency[start:stop],
            self.seen.slice(start, stop),
        )


@dataclass(frozen=True, slots=True)
class Masks:
    """Which tokens may be chosen, for those rows of a step whose answer has to be in a language.

    Rows without a mask have a number and no words, so they cost nothing.

    Attributes:
        rows: i64[R], the place of each row's mask in ``words``; -1 where every token may be chosen.
        words: u32[M, ceil(V / 32)]; bit ``t % 32`` of word ``t // 32`` is set if token t may be
            chosen. Bits beyond V mean nothing.
    """

    rows: I64
    words: U32

    def slice(self, start: int, stop: int) -> Masks:
        """The masks of rows ``start`` to ``stop``."""
        rows = self.rows[start:stop].copy()
        masked = rows >= 0
        kept, rows[masked] = np.unique(rows[masked], return_inverse=True)
        return Masks(rows, self.words[kept])


@dataclass(frozen=True, slots=True)
class SamplingInputs:
    """How to turn each row of logits into a token.

    Attributes:
        num_rows: R.
        targets: i64[R], the token whose log-probability is asked for, -1 to choose one; None
            chooses in every row.
        temperature: f32[R], 0 is greedy; None is greedy in every row.
        top_k: i64[R], 0 for all.
        top_p: f32[R], 1 for all.
        min_p: f32[R], 0 for all.
        penalties: None if no row has any.
        bias: added to the logits of these tokens.
        allowed: the only tokens that may be chosen; a row with an empty list allows all.
        banned: tokens that may not be chosen.
        masks: which tokens may be chosen, in as many bits; None if no row has a mask.
        seeds: u64[R], the request's seed.
        streams: u64[R], the number of the sample within its request.
        counters: u64[R], the number of the token within its sample. A row's random number depends
            on these three alone; they are there if `temperature` is.
        num_logprobs: i64[R], -1 for none, else how many of the most likely tokens to report besides
            the chosen one; None for none anywhere.
    """

    num_rows: int
    targets: I64 | None = None
    temperature: F32 | None = None
    top_k: I64 | None = None
    top_p: F32 | None = None
    min_p: F32 | None = None
    penalties: Penalties | None = None
    bias: Ragged | None = None
    allowed: Ragged | None = None
    banned: Ragged | None = None
    masks: Masks | None = None
    seeds: U64 | None = None
    streams: U64 | None = None
    counters: U64 | None = None
    num_logprobs: I64 | None = None

    def randomness(self) -> tuple[U64, U64, U64]:
        """Seeds, streams and counters, which rows with a temperature have.

        Raises:
            UsageError: they are missing.
        """
        if self.seeds is None or self.streams is None or self.counters is None:
            raise UsageError("rows have a temperature, and no seeds, streams and counters")
        return self.seeds, self.streams, self.counters

    def slice(self, start: int, stop: int) -> SamplingInputs:
        """The parameters of rows ``start`` to ``stop``."""
        if start == 0 and stop == self.num_rows:
            return self
        parts: dict[str, Any] = {}
        for field in fields(self)[1:]:
            value = getattr(self, field.name)
            if isinstance(value, Ragged | Penalties | Masks):
                parts[field.name] = value.slice(start, stop)
            elif value is not None:
                parts[field.name] = value[start:stop]
        return SamplingInputs(stop - start, **parts)


class RowStatus(enum.IntEnum):
    """What came of a row."""

    OK = 0
    NOT_FINITE = 1  # a logit is NaN, or infinitely likely; or a row that embeds has such an entry
    NOTHING_LEFT = 2  # every token is masked


@dataclass(frozen=True, slots=True)
class Sampled:
    """What came of each row.

    Attributes:
        token_ids: i64[R], the token chosen, or the row's target.
        status: u8[R] of ``RowStatus``; None if every row is OK. Other rows hold nothing useful.
        logprobs: f32[R], log-probability of ``token_ids`` under the unmodified logits.
        ranks: i64[R], 1 for the most likely token.
        top_ids: i64[R, K], the most likely tokens, most likely first, equal ones by id.
        top_logprobs: f32[R, K], theirs.
        vectors: f32[R, H], the rows themselves, of a plan that embeds; no token is chosen then.
            They may lie in the executor's memory, and are overwritten by the next step but one of
            an executor that overlaps, by the next one of any other.
    """

    token_ids: I64
    status: U8 | None = None
    logprobs: F32 | None = None
    ranks: I64 | None = None
    top_ids: I64 | None = None
    top_logprobs: F32 | None = None
    vectors: F32 | None = None


def embedded(vectors: F32) -> Sampled:
    """What a step gives of a plan that embeds.

    Args:
        vectors: f32[R, H], its rows; not copied.
    """
    tokens = np.zeros(len(vectors), dtype=np.int64)
    # The extremes of a row are NaN if an entry is, and take no second array of R x H.
    with np.errstate(invalid="ignore"):
        low, high = vectors.min(axis=1), vectors.max(axis=1)
    finite = np.isfinite(low) & np.isfinite(high)
    if finite.all():
        return Sampled(tokens, vectors=vectors)
    status = np.where(finite, RowStatus.OK, RowStatus.NOT_FINITE).astype(np.uint8)
    return Sampled(tokens, status, vectors=vectors)


class Executor(Protocol):
    """Runs a model's steps. Knows tensors and devices, never requests.

    Attributes:
        block_size: KV slots in a block.
        bytes_per_block: bytes of a block over all layers.
        vocab_size: tokens that the model knows, and columns of its logits.
        max_rows: most rows of the output in one step.
        embedding: how rows become vectors; None for a model that generates.
    """

    @property
    def block_size(self) -> int:
        """KV slots in a block."""

    @property
    def bytes_per_block(self) -> int:
        """Bytes of a block over all layers."""

    @property
    def vocab_size(self) -> int:
        """Columns of the logits."""

    @property
    def max_rows(self) -> int:
        """Most rows of logits in one step."""

    @property
    def embedding(self) -> Embedding | None:
        """How rows become vectors; None for a model that generates."""

    def allocate(self, num_blocks: int) -> None:
        """Take memory for ``num_blocks`` KV blocks, in place of any taken before.

        Raises:
            MachineError: there is not enough.
        """

    def run(self, inputs: StepInputs, sampling: SamplingInputs) -> Sampled:
        """Compute a step: write keys and values, and choose or score a token per row.

        An executor of a plan that embeds gives the rows themselves, and ignores ``sampling``.

        Raises:
            GraphoptError: the step could not be computed. The KV memory of its tokens is undefined,
                all other KV memory is untouched.
        """

    def close(self) -> None:
        """Give all memory back. Nothing may be called afterwards but this."""


@runtime_checkable
class OverlappingExecutor(Executor, Protocol):
    """An executor that computes while the host prepares the next step, in the order of starting.

    A step may be started while one is on its way: what memory the host frees in between is written
    again only by later steps.
    """

    def start(self, inputs: StepInputs, sampling: SamplingInputs, sources: I64) -> None:
        """Let a step begin, whose inputs are taken before this returns.

        Args:
            inputs: as for ``run``.
            sampling: as for ``run``.
            sources: i64[T], -1 where a token is in ``inputs``; else the row of the step before
                whose token it is. Whoever goes on so has the blocks that it had, and at most the
                one more that begins with this token.

        Raises:
            GraphoptError: the step could not be started.
        """

    def finish(self) -> Sampled:
        """Wait for the step that was started first, and is not finished.

        Raises:
            GraphoptError: as for ``run``.
        """

"""A scheduled batch as a compiled step's inputs, in buffers that are made once.

A part of a batch covers positions ``start`` to ``stop`` of its sequence; the last ``rows`` of them
want logits. A row at position p scores token p + 1 of the prompt, except a last row that samples.
Of a model that embeds the rows go into vectors, and a row may see its whole sequence.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from graphopt.errors import GraphoptError

from .dispatch import BatchShape
from .executor import I64, Executor, OverlappingExecutor, Sampled, SamplingInputs, StepInputs
from .kv_cache import blocks_for
from .pooling import FIRST
from .sampling_batch import sampling_inputs
from .scheduler import Batch, SchedulerLimits


@dataclass(frozen=True, slots=True)
class Flight:
    """A step that has set out.

    Attributes:
        batch: whose parts it computes.
        sampled: what came of it, if that is known already.
    """

    batch: Batch
    sampled: Sampled | None


class ModelRunner:
    """Fills a step's inputs and hands them to the executor.

    Args:
        executor: runs the model.
        limits: what a step may hold; sizes the buffers.
        context_limit: longest sequence in tokens.
        observe: told the shape of each step before it sets out.
    """

    def __init__(
        self,
        executor: Executor,
        limits: SchedulerLimits,
        context_limit: int,
        observe: Callable[[BatchShape], None] | None = None,
    ) -> None:
        self.executor = executor
        self._observe = observe
        self._overlapping = executor if isinstance(executor, OverlappingExecutor) else None
        self._block_size = executor.block_size
        tokens, sequences = limits.max_num_batched_tokens, limits.max_num_seqs
        longest = blocks_for(context_limit, self._block_size)
        self._token_ids = np.empty(tokens, dtype=np.int64)
        self._positions = np.empty(tokens, dtype=np.int64)
        self._slots = np.empty(tokens, dtype=np.int64)
        self._sources = np.empty(tokens, dtype=np.int64)
        self._rows = np.empty(limits.max_rows, dtype=np.int64)
        self._starts = np.zeros(sequences + 1, dtype=np.int32)
        self._lengths = np.empty(sequences, dtype=np.int32)
        self._tables = np.empty(sequences * longest, dtype=np.int32)
        self._numbers = np.arange(max(context_limit, tokens), dtype=np.int64)
        embedding = executor.embedding
        self._embeds = embedding is not None
        self._reaches = None
        if embedding is not None and embedding.whole:
            self._reaches = np.empty(tokens, dtype=np.int32)

    @property
    def overlaps(self) -> bool:
        """Whether steps are computed while the host does something else."""
        return self._overlapping is not None

    def start(self, batch: Batch, ahead: Batch = ()) -> Flight:
        """Let a step set out.

        Args:
            batch: the step.
            ahead: the step before, if it is still on its way.

        Raises:
            GraphoptError: the step could not be started, or computed.
        """
        inputs, sampling = self.prepare(batch)
        if self._observe is not None:
            self._observe(BatchShape.of(inputs))
        sampled = None
        if self._overlapping is not None:
            self._overlapping.start(inputs, sampling, self._sources_of(batch, ahead))
        else:
            sampled = self.executor.run(inputs, sampling)
        for part in batch:
            part.sequence.launch(part.stop, part.samples)
        return Flight(batch, sampled)

    def land(self, flight: Flight) -> Sampled:
        """What came of a step. Its rows stand in the order of the batch's parts.

        Raises:
            GraphoptError: the step could not be computed.
        """
        sampled = flight.sampled
        if sampled is None and self._overlapping is not None:
            sampled = self._overlapping.finish()
        rows = sum(part.rows for part in flight.batch)
        if sampled is None or len(sampled.token_ids) != rows:
            raise GraphoptError(
                "the executor returned the wrong number of rows",
                got=None if sampled is None else len(sampled.token_ids),
                expected=rows,
            )
        if self._embeds and (sampled.vectors is None or len(sampled.vectors) != rows):
            raise GraphoptError("the executor returned no rows to embed", expected=rows)
        return sampled

    def _sources_of(self, batch: Batch, ahead: Batch) -> I64:
        """Where each token comes from, as ``OverlappingExecutor.start`` takes it."""
        rows = np.cumsum([part.rows for part in ahead]).tolist()
        drawn = {part.sequence: row - 1 for part, row in zip(ahead, rows, strict=True)}
        ends = np.cumsum([part.count for part in batch]).tolist()
        sources = self._sources[: ends[-1]]
        sources.fill(-1)
        for part, end in zip(batch, ends, strict=True):
            if part.sequence.unknown and part.stop == part.sequence.num_tokens:
                sources[end - 1] = drawn[part.sequence]
        return sources

    def prepare(self, batch: Batch) -> tuple[StepInputs, SamplingInputs]:
        """The inputs of a step; views of buffers that the next call overwrites."""
        longest = max(len(part.sequence.table) for part in batch)
        tables = self._tables[: len(batch) * longest].reshape(len(batch), longest)
        token = row = 0
        for place, part in enumerate(batch):
            sequence = part.sequence
            end = token + part.count
            positions = self._numbers[part.start : part.stop]
            blocks = sequence.table.array
            self._token_ids[token:end] = sequence.tokens(part.start, part.stop)
            self._positions[token:end] = positions
            owners = blocks[positions // self._block_size].astype(np.int64)
            self._slots[token:end] = owners * self._block_size + positions % self._block_size
            first = token if sequence.request.pooling == FIRST else end - part.rows
            self._rows[row : row + part.rows] = self._numbers[first : first + part.rows]
            self._starts[place + 1] = end
            self._lengths[place] = part.stop
            if self._reaches is not None:
                self._reaches[token:end] = part.stop
            tables[place, : len(blocks)] = blocks
            tables[place, len(blocks) :] = 0
            token, row = end, row + part.rows
        inputs = StepInputs(
            token_ids=self._token_ids[:token],
            positions=self._positions[:token],
            rows=self._rows[:row],
            slots=self._slots[:token],
            starts=self._starts[: len(batch) + 1],
            lengths=self._lengths[: len(batch)],
            tables=tables,
            reaches=None if self._reaches is None else self._reaches[:token],
        )
        return inputs, sampling_inputs(batch)

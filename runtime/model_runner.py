"""A scheduled batch as a compiled step's inputs, in buffers that are made once.

A part of a batch covers positions ``start`` to ``stop`` of its sequence; the last ``rows`` of them
want logits. A row at position p scores token p + 1 of the prompt, except a last row that samples.
"""

from __future__ import annotations

import numpy as np

from graphopt.errors import GraphoptError

from .executor import Executor, Sampled, SamplingInputs, StepInputs
from .kv_cache import blocks_for
from .sampling_batch import sampling_inputs
from .scheduler import Batch, SchedulerLimits


class ModelRunner:
    """Fills a step's inputs and hands them to the executor.

    Args:
        executor: runs the model.
        limits: what a step may hold; sizes the buffers.
        context_limit: longest sequence in tokens.
    """

    def __init__(self, executor: Executor, limits: SchedulerLimits, context_limit: int) -> None:
        self.executor = executor
        self._block_size = executor.block_size
        tokens, sequences = limits.max_num_batched_tokens, limits.max_num_seqs
        longest = blocks_for(context_limit, self._block_size)
        self._token_ids = np.empty(tokens, dtype=np.int64)
        self._positions = np.empty(tokens, dtype=np.int64)
        self._slots = np.empty(tokens, dtype=np.int64)
        self._rows = np.empty(limits.max_rows, dtype=np.int64)
        self._starts = np.zeros(sequences + 1, dtype=np.int32)
        self._lengths = np.empty(sequences, dtype=np.int32)
        self._tables = np.empty(sequences * longest, dtype=np.int32)
        self._numbers = np.arange(max(context_limit, tokens), dtype=np.int64)

    def run(self, batch: Batch) -> Sampled:
        """Run a step. The rows of the result stand in the order of the batch's parts.

        Raises:
            GraphoptError: the step could not be computed.
        """
        inputs, sampling = self.prepare(batch)
        sampled = self.executor.run(inputs, sampling)
        if len(sampled.token_ids) != sampling.num_rows:
            raise GraphoptError(
                "the executor returned the wrong number of rows",
                got=len(sampled.token_ids),
                expected=sampling.num_rows,
            )
        return sampled

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
            self._rows[row : row + part.rows] = self._numbers[end - part.rows : end]
            self._starts[place + 1] = end
            self._lengths[place] = part.stop
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
        )
        return inputs, sampling_inputs(batch)

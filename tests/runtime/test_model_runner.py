"""The arrays of a step, written out by hand."""

import numpy as np
import pytest

from graphopt.embedding import Embedding
from graphopt.errors import GraphoptError
from graphopt.runtime.dispatch import BatchShape
from graphopt.runtime.executor import Sampled
from graphopt.runtime.model_runner import ModelRunner
from graphopt.runtime.sampling_params import SamplingParams
from graphopt.runtime.scheduler import Scheduled, SchedulerLimits
from graphopt.runtime.sequence import Request, Sequence

from .fakes import HashExecutor, HashRows, OverlappingHash, append


def part(tokens, computed, count, blocks, prompt=None, **params) -> Scheduled:
    ids = np.array(tokens[: prompt or len(tokens)], dtype=np.int64)
    values = SamplingParams(**{"temperature": 0.0, **params})
    request = Request("r", ids, None, values, 0, 0.0)
    one = Sequence(request, 0, 0, 9)
    for token in tokens[len(ids) :]:
        append(one, token)
    one.computed = one.scored = computed
    one.table.extend(blocks)
    return Scheduled.of(one, count)


def runner() -> ModelRunner:
    return ModelRunner(HashExecutor(block_size=4), SchedulerLimits(4, 16, 16, 32), 32)


def test_a_mixed_step():
    batch = (
        part([5, 6, 7, 8, 9, 10], 5, 1, [3, 1], prompt=4),  # a decode
        part([1, 2, 3, 4, 5, 6, 7], 2, 4, [7, 2]),  # a chunk that goes on
        part([11, 12, 13], 0, 3, [9], prompt_logprobs=0),  # a whole prompt, scored
    )
    inputs, sampling = runner().prepare(batch)
    assert inputs.token_ids.tolist() == [10, 3, 4, 5, 6, 11, 12, 13]
    assert inputs.positions.tolist() == [5, 2, 3, 4, 5, 0, 1, 2]
    assert inputs.slots.tolist() == [5, 30, 31, 8, 9, 36, 37, 38]
    assert inputs.rows.tolist() == [0, 5, 6, 7]
    assert inputs.starts.tolist() == [0, 1, 5, 8]
    assert inputs.lengths.tolist() == [6, 6, 3]
    assert inputs.tables.tolist() == [[3, 1], [7, 2], [9, 0]]
    assert inputs.tables.flags.c_contiguous
    assert [array.dtype for array in (inputs.slots, inputs.starts, inputs.tables)] == [
        np.int64,
        np.int32,
        np.int32,
    ]
    assert sampling.num_rows == 4
    assert sampling.targets.tolist() == [-1, 12, 13, -1]


def test_buffers_are_made_once():
    made = runner()
    first, _ = made.prepare((part([1, 2, 3], 0, 3, [0]),))
    second, _ = made.prepare((part([4, 5], 0, 2, [1]),))
    assert np.shares_memory(first.token_ids, second.token_ids)
    assert second.token_ids.tolist() == [4, 5]


def test_an_unfinished_chunk_wants_no_logits():
    inputs, sampling = runner().prepare((part([1, 2, 3, 4], 0, 3, [0]),))
    assert inputs.rows.shape == (0,)
    assert sampling.num_rows == 0


def test_an_executor_that_loses_rows_is_noticed():
    made = runner()
    made.executor.run = lambda inputs, sampling: Sampled(np.zeros(3, dtype=np.int64))
    flight = made.start((part([1, 2], 0, 2, [0]),))
    with pytest.raises(GraphoptError, match="wrong number of rows"):
        made.land(flight)


def test_a_step_that_sets_out_behind_another_takes_its_tokens_from_there():
    made = ModelRunner(OverlappingHash(20, block_size=4), SchedulerLimits(4, 16, 16, 32), 32)
    made.executor.allocate(16)
    first = (
        part([5, 6, 7, 8, 9], 4, 1, [3, 1], prompt=4),
        part([1, 2, 3, 4, 5, 6, 7], 2, 4, [7, 2]),  # a chunk that goes on: no row
        part([11, 12, 13], 0, 3, [9], prompt_logprobs=0),  # three rows, the last one draws
    )
    flight = made.start(first)
    assert [one.sequence.unknown for one in first] == [1, 0, 1]
    assert [one.sequence.computed for one in first] == [5, 6, 3]
    second = tuple(Scheduled.of(first[place].sequence, 1) for place in (2, 1, 0))
    inputs, _ = made.prepare(second)
    assert inputs.token_ids.tolist() == [0, 7, 0]
    assert made._sources_of(second, first).tolist() == [3, -1, 0]
    behind = made.start(second, first)
    tokens = made.land(flight).token_ids
    assert len(tokens) == 4
    assert len(made.land(behind).token_ids) == 3


def test_the_shape_of_each_step_is_told():
    shapes = []
    made = ModelRunner(
        HashExecutor(block_size=4), SchedulerLimits(4, 16, 16, 32), 32, shapes.append
    )
    made.executor.run = lambda inputs, sampling: Sampled(np.zeros(1, dtype=np.int64))
    made.start((part([5, 6, 7, 8, 9, 10], 0, 6, [3, 1]), part([1, 2, 3, 4], 0, 3, [0])))
    assert shapes == [BatchShape(tokens=9, rows=1, sequences=2, blocks=2, longest_query=6)]


def text(tokens, computed, count, blocks, pooling) -> Scheduled:
    request = Request("r", np.array(tokens), None, SamplingParams(), 0, 0.0, pooling=pooling)
    one = Sequence(request, 0, 0, 0)
    one.computed = computed
    one.table.extend(blocks)
    return Scheduled.of(one, count)


def test_texts_that_see_what_comes_are_told_how_far():
    made = ModelRunner(
        HashRows(Embedding(2, "mean", True, True), block_size=4), SchedulerLimits(4, 16, 16, 16), 16
    )
    batch = (
        text([1, 2, 3, 4, 5], 0, 5, [7, 2], "mean"),
        text([6], 0, 1, [1], "cls"),
        text([8, 9], 0, 2, [0], "last"),
    )
    inputs, sampling = made.prepare(batch)
    assert inputs.reaches.tolist() == [5, 5, 5, 5, 5, 1, 2, 2]
    assert inputs.reaches.dtype == np.int32
    assert inputs.rows.tolist() == [0, 1, 2, 3, 4, 5, 7]
    assert sampling.num_rows == 7


def test_others_are_not():
    executor = HashRows(Embedding(2, "cls", True, False), block_size=4)
    made = ModelRunner(executor, SchedulerLimits(4, 16, 16, 32), 32)
    first = text([1, 2, 3, 4, 5], 0, 3, [7, 2], "cls")
    behind = text([1, 2, 3, 4, 5], 2, 3, [7, 2], "cls")
    inputs, _ = made.prepare((behind, first))
    assert inputs.reaches is None
    assert inputs.rows.tolist() == [3]


def test_an_executor_that_gives_no_vectors_is_noticed():
    made = ModelRunner(
        HashRows(Embedding(2, "mean", True, True), block_size=4), SchedulerLimits(4, 16, 16, 16), 16
    )
    made.executor.run = lambda inputs, sampling: Sampled(np.zeros(2, dtype=np.int64))
    flight = made.start((text([1, 2], 0, 2, [0], "mean"),))
    with pytest.raises(GraphoptError, match="no rows to embed"):
        made.land(flight)

"""Parameters become arrays, and features that nobody uses cost nothing."""

from dataclasses import fields

import numpy as np

from graphopt.runtime.sampling_batch import sampling_inputs
from graphopt.runtime.sampling_params import SamplingParams
from graphopt.runtime.scheduler import Scheduled
from graphopt.runtime.sequence import Request, Sequence

from .fakes import append


def part(prompt=4, output=(), index=0, stop_ids=(), count=None, **params) -> Scheduled:
    ids = np.arange(10, 10 + prompt, dtype=np.int64)
    values = SamplingParams(**{"temperature": 0.0, **params})
    request = Request("r", ids, None, values, values.seed or 0, 0.0)
    one = Sequence(request, index, 0, 9, frozenset(stop_ids))
    for token in output:
        append(one, token)
    if output:
        one.computed = one.num_tokens - 1
        one.scored = prompt - 1
    return Scheduled.of(one, one.pending if count is None else count)


def test_a_greedy_batch_is_a_number():
    inputs = sampling_inputs((part(), part(output=[1]), part(count=2)))
    assert inputs.num_rows == 2
    assert all(getattr(inputs, field.name) is None for field in fields(inputs)[1:])


def test_columns():
    inputs = sampling_inputs(
        (
            part(),
            part(temperature=0.5, seed=7, top_k=3, index=2, output=[1, 2]),
            part(temperature=1.0, top_p=0.9, min_p=0.25, logprobs=2),
        )
    )
    assert inputs.temperature.tolist() == [0.0, 0.5, 1.0]
    assert inputs.top_k.tolist() == [0, 3, 0]
    assert np.allclose(inputs.top_p, [1.0, 1.0, 0.9])
    assert inputs.min_p.tolist() == [0.0, 0.0, 0.25]
    assert inputs.seeds.tolist() == [0, 7, 0]
    assert inputs.streams.tolist() == [0, 2, 0]
    assert inputs.counters.tolist() == [0, 2, 0]
    assert inputs.num_logprobs.tolist() == [-1, -1, 2]
    assert inputs.targets is None
    assert inputs.penalties is None


def test_filters_of_greedy_rows_are_left_out():
    inputs = sampling_inputs((part(top_k=3, top_p=0.5, logprobs=0),))
    assert inputs.temperature is None
    assert inputs.top_k is None
    assert inputs.top_p is None
    assert inputs.seeds is None


def test_scored_rows_have_targets_and_only_their_last_row_samples():
    inputs = sampling_inputs((part(prompt_logprobs=3, logprobs=1, logit_bias={5: 1.0}), part()))
    assert inputs.num_rows == 5
    assert inputs.targets.tolist() == [11, 12, 13, -1, -1]
    assert inputs.num_logprobs.tolist() == [3, 3, 3, 1, -1]
    assert inputs.bias.starts.tolist() == [0, 0, 0, 0, 1, 1]
    assert inputs.bias.tokens.tolist() == [5]


def test_a_chunk_of_a_scored_prompt():
    inputs = sampling_inputs((part(prompt=6, prompt_logprobs=0, count=2),))
    assert inputs.targets.tolist() == [11, 12]


def test_lists():
    inputs = sampling_inputs(
        (
            part(allowed_token_ids=[3, 4]),
            part(logit_bias={7: -2.0, 8: 1.5}),
            part(output=[1], min_tokens=2, stop_ids=[9, 2]),
            part(output=[1, 1], min_tokens=2, stop_ids=[9, 2]),
        )
    )
    assert inputs.allowed.starts.tolist() == [0, 2, 2, 2, 2]
    assert inputs.allowed.tokens.tolist() == [3, 4]
    assert inputs.bias.starts.tolist() == [0, 0, 2, 2, 2]
    assert inputs.bias.values.tolist() == [-2.0, 1.5]
    assert inputs.banned.starts.tolist() == [0, 0, 0, 2, 2]
    assert inputs.banned.tokens.tolist() == [2, 9]


class Masked:
    """What a sequence has of a matcher here."""

    def __init__(self, *words):
        self.mask = np.array(words, dtype=np.uint32)


def test_masks_are_those_of_the_rows_that_sample():
    first, scored, chunk = part(), part(prompt_logprobs=0), part(count=2)
    first.sequence.matcher, scored.sequence.matcher = Masked(1, 2), Masked(3, 4)
    chunk.sequence.matcher = Masked(5, 6)
    for one in (first, scored, chunk):
        one.sequence.plain = False
    inputs = sampling_inputs((chunk, scored, part(), first))
    assert inputs.masks.rows.tolist() == [-1, -1, -1, 0, -1, 1]
    assert inputs.masks.words.tolist() == [[3, 4], [1, 2]]
    assert sampling_inputs((part(logprobs=0),)).masks is None


def test_a_constraint_makes_a_sample_more_than_plain():
    assert part().sequence.plain
    assert not part(constraint={"kind": "json_object"}).sequence.plain


def test_penalties():
    inputs = sampling_inputs(
        (part(prompt=2, output=[5, 10, 5], frequency_penalty=0.5), part(presence_penalty=0.25))
    )
    penalties = inputs.penalties
    assert penalties.repetition.tolist() == [1.0, 1.0]
    assert penalties.frequency.tolist() == [0.5, 0.0]
    assert penalties.presence.tolist() == [0.0, 0.25]
    first = penalties.seen.slice(0, 1)
    seen = dict(zip(first.tokens.tolist(), first.values.tolist(), strict=True))
    assert seen == {10: 1.0, 11: 0.0, 5: 2.0}

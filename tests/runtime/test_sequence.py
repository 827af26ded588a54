"""Tokens, counts, and how many rows of logits a chunk needs."""

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from graphopt.runtime.sampling_params import SamplingParams
from graphopt.runtime.sequence import Request, Sequence, Status, TokenCounts

from .fakes import append


def sequence(prompt: list[int], max_output: int = 5, index: int = 0, **params: object) -> Sequence:
    ids = np.array(prompt, dtype=np.int64)
    request = Request("r", ids, None, SamplingParams(**params), 0, 0.0)
    return Sequence(request, index, 0, max_output)


@given(
    prompt=st.lists(st.integers(0, 20), min_size=1, max_size=20),
    output=st.lists(st.integers(0, 20), max_size=200),
)
def test_tokens_are_prompt_and_output(prompt, output):
    one = sequence(prompt, max_output=300)
    for token in output:
        append(one, token)
    assert one.output_ids == output
    assert one.num_tokens == len(prompt) + len(output)
    assert one.tokens(0, one.num_tokens).tolist() == prompt + output
    assert one.tokens(len(prompt), 10_000).tolist() == output
    assert one.request.prompt_ids.tolist() == prompt, "samples share the prompt"


@given(
    prompt=st.lists(st.integers(0, 30), min_size=1, max_size=20),
    output=st.lists(st.integers(0, 30), max_size=100),
)
def test_counts_are_those_of_a_full_count(prompt, output):
    counts = TokenCounts(np.array(prompt, dtype=np.int64))
    for token in output:
        counts.add(token)
    found = dict(zip(counts.tokens.tolist(), counts.counts.tolist(), strict=True))
    expected = Counter(output)
    assert found == {token: expected[token] for token in {*prompt, *output}}


def test_counts_are_kept_only_for_penalties():
    assert sequence([1, 2]).counts is None
    one = sequence([1, 2], presence_penalty=0.5)
    append(one, 2)
    assert one.counts.counts.tolist() == [0, 1]


def test_plain_means_nothing_but_the_largest_logit():
    assert sequence([1], temperature=0.0).plain
    for params in (
        {"temperature": 0.5},
        {"temperature": 0.0, "repetition_penalty": 1.1},
        {"temperature": 0.0, "logit_bias": {1: 1.0}},
        {"temperature": 0.0, "allowed_token_ids": [1]},
        {"temperature": 0.0, "min_tokens": 1},
        {"temperature": 0.0, "logprobs": 0},
        {"temperature": 0.0, "prompt_logprobs": 0},
    ):
        assert not sequence([1], **params).plain


def wanted_rows(one: Sequence, count: int) -> int:
    """Position by position: a prompt position that is not scored yet, or the last of all."""
    rows = 0
    for position in range(one.computed, one.computed + count):
        if position < one.num_prompt - 1:
            rows += one.scores_prompt and position >= one.scored
        elif position == one.num_tokens - 1:
            rows += one.max_output > 0
    return rows


@given(
    prompt=st.integers(1, 12),
    output=st.integers(0, 4),
    computed=st.integers(0, 15),
    scored=st.integers(0, 12),
    scores=st.booleans(),
    generates=st.booleans(),
    budget=st.integers(0, 20),
    rows=st.integers(0, 20),
)
def test_fit_rows_is_the_most_that_fits(
    prompt, output, computed, scored, scores, generates, budget, rows
):
    params = {"prompt_logprobs": 0} if scores else {}
    one = sequence([1] * prompt, max_output=9 if generates or not scores else 0, **params)
    if one.max_output:
        for _ in range(output):
            append(one, 1)
    one.computed = min(computed, one.target - 1)
    # Before a preemption all positions up to here may have been scored; with output, all were.
    one.scored = max(min(scored, prompt - 1), min(one.computed, prompt - 1))
    if one.num_output:
        one.scored = prompt - 1
    most = min(one.pending, budget)
    for count in range(most + 1):
        assert one.rows(count) == wanted_rows(one, count)
    fitting = [count for count in range(most + 1) if one.rows(count) <= rows]
    assert one.fit_rows(most, rows) == max(fitting)


def test_only_the_first_sample_scores_the_prompt():
    assert sequence([1, 2, 3], prompt_logprobs=0).scores_prompt
    assert not sequence([1, 2, 3], index=1, prompt_logprobs=0).scores_prompt


def test_what_generates_nothing_computes_all_but_the_last():
    one = sequence([1, 2, 3], max_output=0, prompt_logprobs=0)
    assert (one.target, one.rows(2)) == (2, 2)
    assert sequence([1], max_output=0, prompt_logprobs=0).target == 1


def test_preempting_and_finishing_give_the_blocks_back():
    one = sequence([1, 2, 3])
    one.table.extend([4, 5])
    one.computed, one.status = 3, Status.RUNNING
    assert one.preempt() == [4, 5]
    assert (one.status, one.computed, one.preemptions) == (Status.WAITING, 0, 1)
    one.table.extend([6])
    assert one.finish() == [6]
    assert one.status is Status.FINISHED
    assert "finished" in repr(one)


def embedded(pooling: str, count: int = 5) -> Sequence:
    request = Request("r", np.arange(count), None, SamplingParams(), 0, 0.0, pooling=pooling)
    return Sequence(request, 0, 0, 0)


def test_a_vector_needs_all_tokens_and_the_rows_of_its_pooling():
    assert embedded("mean").pending == 5
    assert [embedded("mean").rows(count) for count in (0, 1, 5)] == [0, 1, 5]
    assert [embedded("cls").rows(count) for count in (0, 1, 5)] == [0, 1, 1]
    assert [embedded("last").rows(count) for count in (0, 4, 5)] == [0, 0, 1]
    later = embedded("cls")
    later.launch(3, draws=False)
    assert (later.pending, later.rows(2)) == (2, 0)


def test_as_many_tokens_of_a_text_as_there_are_rows():
    assert [embedded("mean").fit_rows(5, rows) for rows in (0, 1, 4, 5, 9)] == [0, 1, 4, 5, 5]
    assert [embedded("cls").fit_rows(5, rows) for rows in (0, 1)] == [0, 5]
    assert [embedded("last").fit_rows(5, rows) for rows in (0, 1)] == [4, 5]

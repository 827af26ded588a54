"""The sampler against definitions written out in full, and against transformers' processors."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.generation import logits_process as hf

from graphopt.errors import UsageError
from graphopt.runtime.executor import Masks, Penalties, Ragged, RowStatus, SamplingInputs
from graphopt.runtime.sampler import _filter, _penalize, _softmax, sample

V = 40


def logits_for(seed: int, rows: int = 1, vocab: int = V) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal((rows, vocab)) * 3).astype(np.float32)


def ragged(lists: list[dict[int, float]]) -> Ragged:
    starts = np.cumsum([0, *(len(one) for one in lists)]).astype(np.int64)
    tokens = [token for one in lists for token in one]
    values = [value for one in lists for value in one.values()]
    return Ragged(starts, np.array(tokens, np.int64), np.array(values, np.float32))


def f32(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float32)


def i64(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


def randomness(rows: int, seed: int = 0) -> dict[str, np.ndarray]:
    return {
        "seeds": np.full(rows, seed, dtype=np.uint64),
        "streams": np.zeros(rows, dtype=np.uint64),
        "counters": np.arange(rows, dtype=np.uint64),
    }


def support(logits: np.ndarray) -> set[int]:
    return set(np.nonzero(np.isfinite(logits))[0].tolist())


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**32),
    temperature=st.floats(0.125, 3.0, width=32),
    top_k=st.integers(0, V + 5),
    top_p=st.floats(0.015625, 1.0, width=32),
    min_p=st.floats(0.0, 0.5, width=32),
)
def test_filters_keep_what_transformers_keeps(seed, temperature, top_k, top_p, min_p):
    logits = logits_for(seed)
    inputs = SamplingInputs(
        1,
        temperature=f32(temperature),
        top_k=i64(top_k),
        top_p=f32(top_p),
        min_p=f32(min_p),
    )
    ours = _filter(logits / np.float32(temperature), inputs, i64(0))[0]
    scores = torch.tensor(logits).double() / temperature
    ids = torch.zeros(1, 1, dtype=torch.long)
    scores = hf.MinPLogitsWarper(min_p)(ids, scores)
    if top_k > 0:
        scores = hf.TopKLogitsWarper(top_k)(ids, scores)
    scores = hf.TopPLogitsWarper(top_p)(ids, scores)
    theirs = scores[0].numpy()
    different = support(ours) ^ support(theirs)
    if different:  # allowed only where a bound falls between two roundings
        probabilities = _softmax(logits / np.float32(temperature))[0]
        assert len(different) == 1
        assert _on_a_bound(probabilities, float(top_p), float(min_p))
    else:
        expected = torch.softmax(scores[0], -1).numpy()
        assert np.abs(_softmax(ours[None])[0] - expected).max() < 1e-6


def _on_a_bound(probabilities: np.ndarray, top_p: float, min_p: float) -> bool:
    sums = np.cumsum(np.sort(probabilities)[::-1])
    return bool(
        np.abs(sums - top_p).min() < 1e-6
        or np.abs(probabilities / probabilities.max() - min_p).min() < 1e-6
    )


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 2**32),
    penalty=st.floats(0.5, 2.0, width=32),
    tokens=st.lists(st.integers(0, V - 1), min_size=1, max_size=10),
)
def test_repetition_penalty_is_that_of_transformers(seed, penalty, tokens):
    logits = logits_for(seed)
    seen = ragged([{token: 0.0 for token in tokens}])
    ours = logits.copy()
    _penalize(ours, Penalties(f32(penalty), f32(0.0), f32(0.0), seen))
    processor = hf.RepetitionPenaltyLogitsProcessor(float(penalty))
    theirs = processor(torch.tensor([tokens]), torch.tensor(logits)).numpy()
    assert np.allclose(ours, theirs, rtol=1e-6)


def test_presence_and_frequency_count_the_output_only():
    logits = np.zeros((1, 5), dtype=np.float32)
    seen = ragged([{0: 0.0, 1: 1.0, 2: 3.0}])  # token 0 is in the prompt only
    _penalize(logits, Penalties(f32(1.0), f32(0.25), f32(0.5), seen))
    assert logits[0].tolist() == [0.0, -0.75, -1.75, 0.0, 0.0]


def test_repetition_comes_before_presence_and_frequency():
    logits = f32(2.0, -2.0)[None].copy()
    seen = ragged([{0: 1.0, 1: 1.0}])
    _penalize(logits, Penalties(f32(2.0), f32(0.5), f32(0.0), seen))
    assert logits[0].tolist() == [0.5, -4.5]


def test_greedy_takes_the_largest_and_the_first_of_equals():
    logits = f32(0.0, 3.0, 3.0, -np.inf)[None]
    assert sample(logits, SamplingInputs(1)).token_ids.tolist() == [1]
    tiny = SamplingInputs(1, temperature=f32(1e-6), **randomness(1))
    assert sample(logits, tiny).token_ids.tolist() == [1]


def test_a_logit_that_the_temperature_lifts_out_of_range_is_chosen():
    logits = np.stack([f32(-1e38, 1e35, 1e34, -np.inf), f32(-2e35, -1e35, -1e35, -np.inf)])
    inputs = SamplingInputs(2, temperature=f32(1e-4, 1e-4), min_p=f32(0.1, 0.1), **randomness(2))
    assert sample(logits, inputs).token_ids.tolist() == [1, 1]


def test_the_nucleus_orders_by_logits_where_probabilities_are_the_same():
    logits = f32(1e-30, 3e-30, 2e-30, 0.0)[None]
    kept = _filter(logits.copy(), SamplingInputs(1, top_p=f32(0.4)), i64(0))
    assert support(kept[0]) == {1, 2}


def test_samples_follow_the_distribution():
    logits = np.repeat(f32(0.0, 1.0, 2.0, -np.inf, 0.5)[None], 20_000, axis=0)
    inputs = SamplingInputs(
        20_000, temperature=np.full(20_000, 0.8, dtype=np.float32), **randomness(20_000, seed=9)
    )
    counts = np.bincount(sample(logits, inputs).token_ids, minlength=5)
    expected = _softmax(logits[:1] / np.float32(0.8))[0] * 20_000
    assert counts[3] == 0
    seen = expected > 0
    # Chi-square with 3 degrees of freedom: 16.3 is exceeded once in 1000.
    assert ((counts[seen] - expected[seen]) ** 2 / expected[seen]).sum() < 16.3


def test_a_row_does_not_depend_on_the_rows_beside_it():
    rows = 7
    logits = logits_for(3, rows)
    inputs = SamplingInputs(
        rows,
        temperature=f32(0.0, 1.0, 0.5, 2.0, 1.0, 1.0, 0.9),
        top_k=i64(0, 0, 5, 0, 3, 0, 0),
        top_p=f32(1.0, 0.9, 1.0, 0.5, 1.0, 1.0, 0.7),
        min_p=f32(0.0, 0.0, 0.0, 0.1, 0.2, 0.0, 0.0),
        penalties=Penalties(
            np.full(rows, 1.2, np.float32),
            np.full(rows, 0.1, np.float32),
            np.full(rows, 0.2, np.float32),
            ragged([{}, {3: 1.0, 4: 0.0}, {}, {1: 2.0}, {}, {0: 1.0}, {}]),
        ),
        bias=ragged([{5: 1.0}, {}, {}, {6: -np.inf}, {}, {}, {7: 3.0}]),
        allowed=ragged([{}, {}, {1: 0.0, 2: 0.0, 3: 0.0}, {}, {}, {}, {}]),
        banned=ragged([{}, {9: 0.0}, {}, {}, {}, {}, {}]),
        num_logprobs=i64(2, -1, 0, 3, 1, 1, 1),
        **randomness(rows, seed=77),
    )
    together = sample(logits, inputs)
    for row in range(rows):
        alone = sample(logits[row : row + 1], inputs.slice(row, row + 1))
        assert alone.token_ids[0] == together.token_ids[row]
        wanted = int(inputs.num_logprobs[row])
        if wanted >= 0:
            assert alone.logprobs[0] == together.logprobs[row]
            assert alone.ranks[0] == together.ranks[row]
            assert (alone.top_ids[0] == together.top_ids[row, :wanted]).all()


def test_long_runs_are_cut_without_changing_anything(monkeypatch):
    from graphopt.runtime import sampler

    rows = 9
    logits = logits_for(5, rows)
    inputs = SamplingInputs(
        rows,
        temperature=np.full(rows, 1.3, np.float32),
        bias=ragged([{row: 2.0} for row in range(rows)]),
        **randomness(rows, seed=4),
    )
    whole = sample(logits, inputs).token_ids
    monkeypatch.setattr(sampler, "_RUN_ELEMENTS", 2 * V)
    assert (sample(logits, inputs).token_ids == whole).all()


def test_masks():
    logits = logits_for(1)
    best = int(logits.argmax())
    banned = sample(logits, SamplingInputs(1, banned=ragged([{best: 0.0}])))
    assert banned.token_ids[0] == np.argsort(-logits[0])[1]
    allowed = sample(logits, SamplingInputs(1, allowed=ragged([{3: 0.0, 8: 0.0}])))
    assert allowed.token_ids[0] == (3 if logits[0, 3] > logits[0, 8] else 8)
    biased = sample(logits, SamplingInputs(1, bias=ragged([{11: 100.0}])))
    assert biased.token_ids[0] == 11
    out = sample(logits, SamplingInputs(1, bias=ragged([{best: -np.inf}])))
    assert out.token_ids[0] == banned.token_ids[0]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_only_tokens_with_a_bit_are_chosen(temperature):
    rng = np.random.default_rng(8)
    rows, vocab = 40, 71  # two words and a part of one
    logits = rng.standard_normal((rows, vocab)).astype(np.float32)
    bits = rng.random((rows // 2, 96)) < 0.1
    bits[:, 5] = True
    words = np.packbits(bits, axis=1, bitorder="little").view(np.uint32)
    places = np.where(np.arange(rows) % 2 == 0, np.arange(rows) // 2, -1)
    numbers = [rng.integers(0, 99, rows).astype(np.uint64) for _ in range(3)]
    inputs = SamplingInputs(
        rows,
        temperature=np.full(rows, temperature, np.float32),
        masks=Masks(places, words),
        seeds=numbers[0],
        streams=numbers[1],
        counters=numbers[2],
        num_logprobs=np.zeros(rows, np.int64),
    )
    got, free = sample(logits, inputs), sample(logits, replace(inputs, masks=None))
    assert got.token_ids[1::2].tolist() == free.token_ids[1::2].tolist()
    chances = np.exp(logits.astype(float))
    chances /= chances.sum(axis=1, keepdims=True)
    for row in range(0, rows, 2):
        token, own = got.token_ids[row], bits[row // 2, :vocab]
        assert own[token]
        assert got.logprobs[row] == pytest.approx(np.log(chances[row, token]), abs=1e-5)
        if not temperature:
            assert token == np.where(own, logits[row], -np.inf).argmax()


def test_a_mask_without_bits_leaves_nothing():
    logits = np.zeros((2, 5), dtype=np.float32)
    masks = Masks(np.array([0, -1]), np.array([[0xFFFFFFE0]], dtype=np.uint32))
    assert sample(logits, SamplingInputs(2, masks=masks)).status.tolist() == [2, 0]


def test_faults_are_reported_for_their_rows_only():
    logits = logits_for(2, 5)
    logits[1, 7] = np.nan
    logits[2, 7] = np.inf
    logits[3] = -np.inf
    for temperature in (None, np.ones(5, np.float32)):
        result = sample(logits, SamplingInputs(5, temperature=temperature, **randomness(5)))
        assert result.status.tolist() == [
            RowStatus.OK,
            RowStatus.NOT_FINITE,
            RowStatus.NOT_FINITE,
            RowStatus.NOTHING_LEFT,
            RowStatus.OK,
        ]
    assert sample(logits[:1], SamplingInputs(1)).status is None
    result = sample(
        logits[:1],
        SamplingInputs(1, allowed=ragged([{4: 0.0}]), banned=ragged([{4: 0.0}])),
    )
    assert result.status.tolist() == [RowStatus.NOTHING_LEFT]


def test_targets_are_scored_and_not_sampled():
    logits = logits_for(8, 3)
    inputs = SamplingInputs(
        3,
        targets=i64(4, -1, 9),
        temperature=np.ones(3, np.float32),
        num_logprobs=i64(0, 2, 1),
        **randomness(3),
    )
    result = sample(logits, inputs)
    expected = torch.log_softmax(torch.tensor(logits).double(), -1).numpy()
    assert result.token_ids[[0, 2]].tolist() == [4, 9]
    for row, token in enumerate(result.token_ids):
        assert result.logprobs[row] == pytest.approx(expected[row, token], abs=1e-6)
        assert result.ranks[row] == 1 + (expected[row] > expected[row, token]).sum()
    order = np.argsort(-expected[1])[:2]
    assert result.top_ids[1].tolist() == order.tolist()
    assert np.allclose(result.top_logprobs[1], expected[1, order], atol=1e-6)


def test_logprobs_ignore_sampling_parameters():
    logits = logits_for(6)
    plain = sample(logits, SamplingInputs(1, num_logprobs=i64(3)))
    bent = sample(
        logits,
        SamplingInputs(
            1,
            temperature=f32(2.0),
            top_k=i64(1),
            num_logprobs=i64(3),
            banned=ragged([{int(plain.token_ids[0]): 0.0}]),
            **randomness(1),
        ),
    )
    assert bent.token_ids[0] == plain.top_ids[0, 1]
    assert bent.logprobs[0] == plain.top_logprobs[0, 1]
    assert bent.ranks[0] == 2
    assert (bent.top_ids == plain.top_ids).all()


def test_equal_logits_rank_equally_and_are_listed_by_id():
    logits = f32(1.0, 2.0, 2.0, 2.0, 0.0)[None]
    result = sample(logits, SamplingInputs(1, targets=i64(3), num_logprobs=i64(2)))
    assert result.ranks[0] == 1
    assert result.top_ids[0].tolist() == [1, 2]


def test_more_logprobs_than_tokens_give_all_tokens():
    result = sample(logits_for(1, 1, 4), SamplingInputs(1, num_logprobs=i64(9)))
    assert result.top_ids.shape == (1, 4)


def test_no_rows():
    result = sample(np.empty((0, 5), np.float32), SamplingInputs(0))
    assert result.token_ids.shape == (0,)


def test_the_input_is_not_changed():
    logits = logits_for(1, 2)
    before = logits.copy()
    inputs = SamplingInputs(
        2,
        temperature=f32(1.0, 0.5),
        top_p=f32(0.5, 0.5),
        bias=ragged([{1: 1.0}, {}]),
        num_logprobs=i64(1, 1),
        **randomness(2),
    )
    sample(logits, inputs)
    assert (logits == before).all()


def test_top_k_keeps_ties_and_top_p_at_least_one():
    inputs = SamplingInputs(1, top_k=i64(2))
    assert support(_filter(f32(3.0, 1.0, 1.0, 1.0, 0.0)[None].copy(), inputs, i64(0))[0]) == {
        0,
        1,
        2,
        3,
    }
    inputs = SamplingInputs(1, top_p=f32(1e-9))
    assert support(_filter(np.zeros((1, 5), np.float32), inputs, i64(0))[0]) == {0}


def test_a_large_vocabulary_needs_no_full_sort_to_be_right():
    logits = logits_for(3, 1, 50_000)
    kept = _filter(logits.copy(), SamplingInputs(1, top_p=f32(0.9)), i64(0))[0]
    probabilities = _softmax(logits)[0]
    order = np.argsort(-probabilities, kind="stable")
    count = 1 + int(np.searchsorted(np.cumsum(probabilities[order])[:-1], np.float32(0.9)))
    assert support(kept) == set(order[:count].tolist())


def test_top_p_stops_where_the_sum_is_reached():
    inputs = SamplingInputs(1, top_p=f32(0.5))
    assert support(_filter(f32(0.0, 0.0, -np.inf)[None].copy(), inputs, i64(0))[0]) == {0}


@pytest.mark.parametrize(("number", "expected"), [(0.0, 1), (1.0 - 2.0**-53, 3)])
def test_the_ends_of_the_interval_choose_nothing_impossible(monkeypatch, number, expected):
    from graphopt.runtime import sampler

    monkeypatch.setattr(sampler, "uniform", lambda *key: np.array([number]))
    for scale in (1.0, 0.3, 7.7):
        logits = f32(-np.inf, scale, -np.inf, scale / 3, -np.inf)[None]
        inputs = SamplingInputs(1, temperature=f32(1.0), **randomness(1))
        assert sample(logits, inputs).token_ids[0] == expected


def test_a_temperature_without_seeds_is_refused():
    with pytest.raises(UsageError, match="no seeds"):
        sample(logits_for(1), SamplingInputs(1, temperature=f32(1.0)))

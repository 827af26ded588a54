"""Slices of sampling inputs, and rows that embed."""

import numpy as np
import pytest

from graphopt.runtime.executor import Masks, Penalties, Ragged, RowStatus, SamplingInputs, embedded


def test_ragged_lists_are_cut_by_rows():
    ragged = Ragged(
        np.array([0, 2, 2, 5]), np.array([4, 5, 6, 7, 8]), np.arange(5, dtype=np.float32)
    )
    assert ragged.rows.tolist() == [0, 0, 2, 2, 2]
    part = ragged.slice(1, 3)
    assert part.starts.tolist() == [0, 0, 3]
    assert part.tokens.tolist() == [6, 7, 8]
    assert part.values.tolist() == [2.0, 3.0, 4.0]
    assert part.rows.tolist() == [1, 1, 1]


def test_inputs_are_cut_with_all_they_hold():
    ones = np.ones(3, dtype=np.float32)
    seen = Ragged(np.array([0, 1, 2, 3]), np.array([7, 8, 9]), ones)
    inputs = SamplingInputs(
        3,
        temperature=np.array([0.0, 1.0, 2.0], dtype=np.float32),
        penalties=Penalties(ones, ones * 2, ones * 3, seen),
        bias=seen,
    )
    part = inputs.slice(1, 2)
    assert part.num_rows == 1
    assert part.temperature.tolist() == [1.0]
    assert part.penalties.seen.tokens.tolist() == [8]
    assert part.penalties.frequency.tolist() == [3.0]
    assert part.bias.tokens.tolist() == [8]
    assert part.top_k is None
    assert inputs.slice(0, 3) is inputs


def test_masks_are_cut_to_those_that_rows_have():
    words = np.arange(6, dtype=np.uint32).reshape(3, 2)
    masks = Masks(np.array([2, -1, 0, 1]), words)
    part = masks.slice(1, 3)
    assert part.rows.tolist() == [-1, 0]
    assert part.words.tolist() == [[0, 1]]
    assert masks.slice(1, 2).words.shape == (0, 2)
    assert masks.rows.tolist() == [2, -1, 0, 1]
    assert SamplingInputs(4, masks=masks).slice(0, 1).masks.words.tolist() == [[4, 5]]


def test_rows_that_embed_are_given_as_they_are():
    vectors = np.array([[3e38, -3e38], [0.0, -1.0]], np.float32)
    found = embedded(vectors)
    assert found.vectors is vectors
    assert found.status is None
    assert found.token_ids.tolist() == [0, 0]
    assert embedded(vectors[:0]).token_ids.shape == (0,)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_rows_that_are_not_finite_are_told(bad):
    vectors = np.ones((3, 5), np.float32)
    vectors[1, 3] = bad
    ok, wrong = RowStatus.OK, RowStatus.NOT_FINITE
    assert embedded(vectors).status.tolist() == [ok, wrong, ok]

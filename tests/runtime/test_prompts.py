"""Prompts in every form that callers use, and what is refused."""

from __future__ import annotations

from collections import deque
from pathlib import Path

import numpy as np
import pytest
import torch

from graphopt.errors import RequestError
from graphopt.runtime.prompts import as_prompts, token_array


@pytest.mark.parametrize(
    ("given", "prompts"),
    [
        ("text", ["text"]),
        ([], []),
        ([1, 2], [[1, 2]]),
        ((1, 2), [[1, 2]]),
        (range(2), [[0, 1]]),
        ((number for number in (1, 2)), [[1, 2]]),
        (["a", [1]], ["a", [1]]),
        ((text for text in ("a", "b")), ["a", "b"]),
        ([[]], [[]]),
    ],
)
def test_one_or_many(given, prompts):
    assert as_prompts(given) == prompts


def test_arrays():
    for make in (np.array, torch.tensor):
        (one,) = as_prompts(make([1, 2]))
        assert token_array(one, 3).tolist() == [1, 2]
        assert [token_array(row, 5).tolist() for row in as_prompts(make([[1, 2], [3, 4]]))] == [
            [1, 2],
            [3, 4],
        ]
    assert as_prompts(np.array(["a", "b"])) == ["a", "b"]


@pytest.mark.parametrize("given", [None, 5, 1.5, b"a", bytearray(b"a"), {"prompt": 1}, {1}, Path()])
def test_what_is_no_prompt_is_refused(given):
    with pytest.raises(RequestError, match="these are no prompts"):
        as_prompts(given)


@pytest.mark.parametrize(
    "ids",
    [
        [1, 2],
        (1, 2),
        range(1, 3),
        deque([1, 2]),
        [np.int32(1), 2],
        np.array([1, 2], dtype=np.uint8),
        np.array([1, 2], dtype=np.uint64),
        torch.tensor([1, 2]),
    ],
)
def test_token_ids_in_every_form(ids):
    found = token_array(ids, 3)
    assert found.dtype == np.int64
    assert found.tolist() == [1, 2]


@pytest.mark.parametrize(
    "ids",
    [
        [1.5, 2],
        [1.0, 2.0],
        [float("nan")],
        [True, 2],
        ["1", "2"],
        [None],
        [[1, 2]],
        [1, [2]],
        [np.float32(1.0)],
        [np.True_],
        np.array([1.0, 2.0]),
        np.array([True]),
        np.array([[1, 2]]),
        np.array([1, 2], dtype=object),
        np.array(1),
        torch.tensor([1.5]),
        b"ab",
        {1, 2},
        {1: 2},
        None,
        5,
        (number for number in (1, 2)),
    ],
)
def test_what_is_no_token_id_is_refused(ids):
    with pytest.raises(RequestError, match="something else than token ids"):
        token_array(ids, 1 << 40)


@pytest.mark.parametrize(
    "ids", [[-1], [3], [10**30], [-(10**30)], np.array([2**63 + 5], dtype=np.uint64)]
)
def test_ids_that_the_model_lacks_are_refused_with_their_value(ids):
    with pytest.raises(RequestError, match="does not have") as caught:
        token_array(ids, 3)
    assert caught.value.got == f"ids {int(ids[0])} to {int(ids[0])}"


@pytest.mark.parametrize("ids", [[], (), np.array([]), torch.tensor([])])
def test_an_empty_prompt_is_refused(ids):
    with pytest.raises(RequestError, match="empty"):
        token_array(ids, 3)

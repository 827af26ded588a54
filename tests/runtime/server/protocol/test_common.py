"""Bodies are strict: numbers are numbers, and what is not known is kept apart and named."""

from __future__ import annotations

import time
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from graphopt.runtime.server.protocol.common import LogitBias, Prompts, SamplingFields

PROMPTS = TypeAdapter[Any](Prompts)
BIAS = TypeAdapter[Any](LogitBias)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("a", ["a"]),
        ("", [""]),
        (["a", "b"], ["a", "b"]),
        ([1, 2], [[1, 2]]),
        ([[1, 2], [3]], [[1, 2], [3]]),
        (["a", [1]], ["a", [1]]),
    ],
)
def test_a_prompt_has_four_forms(given: object, expected: object) -> None:
    assert PROMPTS.validate_python(given) == expected


@pytest.mark.parametrize(
    "given",
    [None, 3, {}, [], [1, "a"], [1.0], [True], [-1], [2**31], [[1], [True]], [None], [[[1]]]],
)
def test_anything_else_is_no_prompt(given: object) -> None:
    with pytest.raises(ValidationError):
        PROMPTS.validate_python(given)


def test_a_prompt_of_a_million_wrong_tokens_is_refused_with_one_complaint() -> None:
    begun = time.process_time()
    with pytest.raises(ValidationError) as caught:
        PROMPTS.validate_python([1] + ["x"] * 1_000_000)
    assert caught.value.error_count() == 1
    assert time.process_time() - begun < 1.0


def test_a_million_prompts_are_refused_unseen() -> None:
    with pytest.raises(ValidationError, match="at most"):
        PROMPTS.validate_python([[]] * 1_000_000)


def test_biases_have_keys_of_text_and_become_numbers() -> None:
    assert BIAS.validate_python({"5": 1, "7": -2.5}) == {5: 1.0, 7: -2.5}
    for wrong in ({"a": 1}, {"-1": 1}, {"5": "1"}, {"5": True}, {"5": 10**400}, [], {"٣": 1}):
        with pytest.raises(ValidationError):
            BIAS.validate_python(wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_tokens": "4"},
        {"max_tokens": 4.0},
        {"max_tokens": True},
        {"temperature": "0.5"},
        {"stream": "true"},
        {"stop": 3},
        {"stop": [3]},
        {"n": 0},
        {"top_p": 0},
        {"stream_options": []},
        {"cache_salt": ""},
    ],
)
def test_wrong_types_and_ranges_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        SamplingFields.model_validate(wrong)


def test_whole_numbers_pass_for_numbers_and_null_for_absence() -> None:
    found = SamplingFields.model_validate({"temperature": 1, "top_p": 1, "n": None, "stop": None})
    assert (found.temperature, found.n) == (1.0, None)


def test_unknown_fields_are_named_those_of_options_too() -> None:
    found = SamplingFields.model_validate(
        {"frequency": 1, "stream_options": {"include_usage": True, "more": 1}}
    )
    assert found.unknown() == ["frequency", "stream_options.more"]

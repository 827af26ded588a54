"""Fields to parameters: the model's defaults, the request on top, limits, plain data."""

from __future__ import annotations

import math
from typing import Any

import pytest

from graphopt.errors import RequestError
from graphopt.runtime.constraint import Constraint
from graphopt.runtime.sampling_params import SamplingParams
from graphopt.runtime.server.http_errors import ApiError
from graphopt.runtime.server.protocol.common import SamplingFields
from graphopt.runtime.server.sampling import at_most, sampling_params, wire_params
from graphopt.runtime.server.settings import Limits
from graphopt.runtime.words import Words

from .fake_engine import TOKENIZER

DEFAULTS = Words(TOKENIZER, {"do_sample": True, "temperature": 0.7, "eos_token_id": 3})


def _params(words: Words = DEFAULTS, **fields: Any) -> SamplingParams:
    return sampling_params(SamplingFields.model_validate(fields), words, Limits())


def test_the_models_defaults_hold_unless_the_request_says_otherwise() -> None:
    assert _params().temperature == 0.7
    assert _params(temperature=None, top_p=0.5).temperature == 0.7
    assert _params(temperature=0).greedy
    assert _params(Words(TOKENIZER)).temperature == 1.0


def test_every_field_reaches_the_parameter_of_its_name() -> None:
    given: dict[str, Any] = {
        "max_tokens": 9,
        "min_tokens": 2,
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 5,
        "min_p": 0.1,
        "repetition_penalty": 1.5,
        "presence_penalty": 0.25,
        "frequency_penalty": -0.25,
        "seed": 7,
        "n": 2,
        "stop": ["a", "b"],
        "stop_token_ids": [4],
        "allowed_token_ids": [4, 5],
        "ignore_eos": True,
        "skip_special_tokens": False,
        "include_stop_str_in_output": True,
        "prompt_logprobs": 3,
    }
    found = _params(**given, logit_bias={"5": 1})
    for name, value in given.items():
        expected = tuple(value) if isinstance(value, list) else value
        assert getattr(found, name) == expected, name
    assert found.logit_bias == {5: 1.0}


def test_a_seed_below_zero_is_a_seed() -> None:
    assert _params(seed=-1).seed == 2**64 - 1


@pytest.mark.parametrize(
    ("limits", "fields", "param"),
    [
        (Limits(max_n=2), {"n": 3}, "n"),
        (Limits(max_stop_strings=2), {"stop": ["a", "b", "c"]}, "stop"),
        (Limits(max_stop_chars=2), {"stop": "abc"}, "stop"),
        (Limits(max_logit_bias=1), {"logit_bias": {"1": 1, "2": 1}}, "logit_bias"),
        (Limits(max_logit_bias=1), {"stop_token_ids": [1, 2]}, "stop_token_ids"),
        (Limits(max_logprobs=2), {"prompt_logprobs": 3}, "prompt_logprobs"),
    ],
)
def test_limits_are_named(limits: Limits, fields: dict[str, Any], param: str) -> None:
    with pytest.raises(ApiError) as caught:
        sampling_params(SamplingFields.model_validate(fields), DEFAULTS, limits)
    assert (caught.value.status_code, caught.value.param) == (400, param)
    most = {name: value - 1 if isinstance(value, int) else value for name, value in fields.items()}
    if most != fields:
        sampling_params(SamplingFields.model_validate(most), DEFAULTS, limits)


def test_values_out_of_range_are_refused_as_everywhere() -> None:
    with pytest.raises(RequestError, match="min_tokens"):
        _params(min_tokens=9, max_tokens=3)
    with pytest.raises(ApiError, match="no tokenizer"):
        _params(Words(), stop="a")


def test_the_engine_is_told_what_differs_and_no_strings() -> None:
    params = SamplingParams(
        max_tokens=None,
        stop=["a"],
        logit_bias={5: -math.inf},
        skip_special_tokens=False,
        constraint=Constraint.regex("a+"),
        n=2,
    )
    assert wire_params(params) == {
        "max_tokens": None,
        "logit_bias": {5: -math.inf},
        "constraint": {"kind": "regex", "source": "a+"},
        "n": 2,
    }
    assert wire_params(SamplingParams()) == {}
    assert SamplingParams(**wire_params(params)).language == params.language


def test_at_most_is_at_most() -> None:
    at_most("x", 3, 3)
    with pytest.raises(ApiError, match="x may have at most 3 things"):
        at_most("x", 4, 3, "things")

"""Every field is checked, and defaults come from generation_config.json as they should."""

import math

import pytest

from graphopt.errors import RequestError
from graphopt.runtime.constraint import Constraint
from graphopt.runtime.sampling_params import LARGEST, MAX_SAMPLES, SamplingParams, eos_token_ids

BAD = [
    ("max_tokens", -1),
    ("max_tokens", 1.5),
    ("max_tokens", True),
    ("max_tokens", 0),
    ("min_tokens", -1),
    ("temperature", -0.1),
    ("temperature", math.nan),
    ("temperature", math.inf),
    ("temperature", "1"),
    ("temperature", 1e16),
    ("temperature", 10**400),
    ("top_k", -2),
    ("top_k", 10**30),
    ("top_k", 2.0),
    ("top_p", 0.0),
    ("top_p", 1.1),
    ("min_p", -0.1),
    ("min_p", 1.1),
    ("repetition_penalty", 0.0),
    ("repetition_penalty", 1e-16),
    ("repetition_penalty", math.inf),
    ("presence_penalty", -1e16),
    ("presence_penalty", math.nan),
    ("frequency_penalty", math.inf),
    ("seed", -1),
    ("seed", 2**64),
    ("stop", ""),
    ("stop", ["a", ""]),
    ("stop", [3]),
    ("stop", "half a pair \ud83d"),
    ("stop", 5),
    ("stop_token_ids", [-1]),
    ("stop_token_ids", ["a"]),
    ("stop_token_ids", "12"),
    ("stop_token_ids", 5),
    ("logit_bias", {-1: 0.0}),
    ("logit_bias", [1, 2]),
    ("logit_bias", {1: math.nan}),
    ("logit_bias", {1: math.inf}),
    ("logit_bias", {1: 1e39}),
    ("logit_bias", {1: 10**400}),
    ("logit_bias", {1: "x"}),
    ("allowed_token_ids", []),
    ("allowed_token_ids", [1.0]),
    ("ignore_eos", 1),
    ("logprobs", -1),
    ("logprobs", 10**30),
    ("prompt_logprobs", -1),
    ("n", 0),
    ("n", MAX_SAMPLES + 1),
    ("skip_special_tokens", None),
    ("include_stop_str_in_output", "yes"),
    ("constraint", "yes"),
    ("constraint", {"source": "a"}),
]


@pytest.mark.parametrize(("name", "value"), BAD)
def test_a_bad_value_is_refused_and_the_field_named(name, value):
    with pytest.raises(RequestError) as caught:
        SamplingParams(**{name: value})
    assert name in caught.value.what
    assert caught.value.got is not None
    assert caught.value.expected is not None


def test_limits_themselves_are_accepted():
    SamplingParams(temperature=LARGEST, repetition_penalty=1 / LARGEST, logit_bias={1: -LARGEST})
    SamplingParams(temperature=0, top_k=-1, top_p=1, min_p=1, seed=2**64 - 1, n=MAX_SAMPLES)
    SamplingParams(max_tokens=None, min_tokens=100, logit_bias={3: -math.inf})
    SamplingParams(max_tokens=0, prompt_logprobs=0)


def test_min_tokens_beyond_max_tokens_is_refused():
    with pytest.raises(RequestError, match="min_tokens"):
        SamplingParams(max_tokens=3, min_tokens=4)


def test_defaults_are_neutral():
    params = SamplingParams()
    assert not params.has_penalties
    assert not params.greedy
    assert (params.top_k, params.top_p, params.min_p, params.n) == (0, 1.0, 0.0, 1)
    assert params.stop_strings == ()
    assert params.stop_ids == ()
    assert params.allowed_ids is None


def test_lists_are_kept_once_and_in_order():
    params = SamplingParams(stop="end", stop_token_ids=[3, 1, 3], allowed_token_ids=iter([2, 2, 9]))
    assert params.stop == ("end",)
    assert params.stop_ids == (3, 1)
    assert params.allowed_ids == (2, 9)
    bias = {1: 1.0}
    params = SamplingParams(logit_bias=bias)
    bias[2] = 2.0
    assert params.logit_bias == {1: 1.0}


def test_tiny_temperatures_are_greedy():
    assert SamplingParams(temperature=0.0).greedy
    assert SamplingParams(temperature=9e-6).greedy
    assert not SamplingParams(temperature=1e-5).greedy


def test_a_generation_config_gives_defaults():
    config = {
        "do_sample": True,
        "temperature": 0.6,
        "top_k": 20,
        "top_p": 0.9,
        "min_p": None,
        "repetition_penalty": 1.1,
        "max_new_tokens": 99,
        "eos_token_id": [2, 5],
        "transformers_version": "5.0",
    }
    params = SamplingParams.from_generation_config(config)
    assert params == SamplingParams(
        temperature=0.6,
        top_k=20,
        top_p=0.9,
        repetition_penalty=1.1,
        max_tokens=99,
        stop_token_ids=(2, 5),
    )
    over = SamplingParams.from_generation_config(config, temperature=0.0, ignore_eos=True)
    assert over.greedy
    assert over.stop_ids == ()
    assert over.top_k == 20


def test_without_do_sample_a_generation_config_is_greedy():
    assert SamplingParams.from_generation_config({}).greedy
    assert SamplingParams.from_generation_config({"temperature": 0.6}).greedy
    assert not SamplingParams.from_generation_config({}, temperature=1.0).greedy


def test_bad_generation_configs_and_overrides_are_refused():
    with pytest.raises(RequestError, match="top_p"):
        SamplingParams.from_generation_config({"do_sample": True, "top_p": 3})
    with pytest.raises(RequestError, match="sampling parameter") as caught:
        SamplingParams.from_generation_config({}, temprature=1.0)
    assert caught.value.got == "temprature"
    with pytest.raises(RequestError, match="eos_token_id"):
        eos_token_ids({"eos_token_id": "</s>"})


def test_end_of_sequence_tokens():
    assert eos_token_ids({}) == ()
    assert eos_token_ids({"eos_token_id": None}) == ()
    assert eos_token_ids({"eos_token_id": 2}) == (2,)
    assert eos_token_ids({"eos_token_id": [2, 7, 2]}) == (2, 7)


def test_a_constraint_is_the_same_as_plain_data():
    one = Constraint.regex("a+")
    params = SamplingParams(constraint=one)
    assert params.language is one
    assert SamplingParams(constraint=one.plain) == params
    assert SamplingParams().language is None

"""What the command line set, and nothing else, reaches the layers below."""

from __future__ import annotations

import inspect
from dataclasses import fields

import click

from graphopt import api
from graphopt.cli.generate import command
from graphopt.cli.options import COMPILE_OPTIONS, ENGINE_OPTIONS, SAMPLING_OPTIONS, given
from graphopt.runtime.executors.weight_memory import PLACES
from graphopt.runtime.llm import LLM
from graphopt.runtime.sampling_params import SamplingParams


def test_given() -> None:
    options = {"dtype": None, "block_size": 8, "allow_unproven": None, "unrelated": 1}
    assert given(options, COMPILE_OPTIONS) == {"block_size": 8}


def test_zero_and_false_are_given_and_an_empty_list_is_not() -> None:
    options = {"seed": 0, "temperature": 0.0, "ignore_eos": False, "stop": ()}
    assert given(options, SAMPLING_OPTIONS) == {"seed": 0, "temperature": 0.0, "ignore_eos": False}


def test_logit_bias_becomes_a_mapping() -> None:
    assert given({"logit_bias": ((3, -1.0), (3, 2.0), (4, 0.5))}, SAMPLING_OPTIONS) == {
        "logit_bias": {3: 2.0, 4: 0.5}
    }


def test_weights_lie_where_the_executor_can_put_them() -> None:
    choice = next(one for one in command.params if one.name == "weights").type
    assert isinstance(choice, click.Choice)
    assert tuple(choice.choices) == PLACES


def test_the_layers_below_know_the_options() -> None:
    assert set(COMPILE_OPTIONS) <= set(inspect.signature(api.compile_options).parameters)
    assert set(ENGINE_OPTIONS) <= set(inspect.signature(LLM).parameters)
    assert set(SAMPLING_OPTIONS) <= {field.name for field in fields(SamplingParams)}

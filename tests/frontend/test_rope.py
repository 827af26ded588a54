from __future__ import annotations

from typing import Any

import pytest
from torch import nn
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from graphopt.errors import UnsupportedError
from graphopt.frontend.hf import trace_decoder
from graphopt.frontend.rope import (
    ContextLimit,
    fix_frequencies,
    fix_temperature,
    longest_context,
    rotary_limit,
)
from graphopt.frontend.twin import compare
from graphopt.ir.dtype import DType
from tests.models.harness import config_of

SHORT = {"original_max_position_embeddings": 32}
TYPES: dict[str, dict[str, Any]] = {
    "default": {},
    "linear": {"factor": 4.0},
    "dynamic": {"factor": 4.0},
    "yarn": {"factor": 4.0, **SHORT},
    "longrope": {
        "factor": 4.0,
        "short_factor": [1.0, 1.5, 2.0, 2.5],
        "long_factor": [4.0, 5.0, 6.0, 7.0],
        **SHORT,
    },
    "llama3": {"factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, **SHORT},
    "proportional": {"partial_rotary_factor": 0.5},
}


def config_with(kind: str, **settings: Any) -> Any:
    rope = {"rope_type": kind, "rope_theta": 10000.0, **TYPES[kind], **settings}
    return config_of(
        "llama",
        vocab_size=96,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=48,
        max_position_embeddings=128,
        rope_parameters=rope,
    )


def test_every_type_that_transformers_knows_is_tried_here() -> None:
    assert set(ROPE_INIT_FUNCTIONS) | {"default"} == set(TYPES)


@pytest.mark.parametrize(
    "kind",
    [kind if kind == "longrope" else pytest.param(kind, marks=pytest.mark.slow) for kind in TYPES],
)
def test_a_neighbour_far_ahead_changes_nothing(kind: str) -> None:
    """One sequence of the scenario stands at far larger positions than the others."""
    config = config_with(kind)
    decoder = trace_decoder(config, DType.F32)
    assert compare(config, decoder) < 1e-5


def test_frequencies_that_depend_on_the_batch_limit_the_context() -> None:
    assert rotary_limit(config_with("default")) is None
    assert rotary_limit(config_with("llama3")) is None
    dynamic, longrope = rotary_limit(config_with("dynamic")), rotary_limit(config_with("longrope"))
    assert dynamic is not None
    assert longrope is not None
    assert (dynamic.tokens, longrope.tokens) == (128, 32)


def test_parameters_for_each_type_of_layer_are_read() -> None:
    config = config_with("longrope")
    long, plain = dict(config.rope_parameters), {"rope_type": "default", "rope_theta": 1e4}
    config.rope_parameters = {"sliding_attention": plain, "full_attention": long}
    limit = rotary_limit(config)
    assert limit is not None
    assert limit.tokens == 32


def test_an_unknown_type_is_refused() -> None:
    config = config_with("default")
    config.rope_parameters = {"rope_type": "spiral"}
    with pytest.raises(UnsupportedError, match="does not know") as error:
        rotary_limit(config)
    assert error.value.got == "spiral"


def test_longrope_without_its_length_is_refused() -> None:
    config = config_with("longrope")
    del config.rope_parameters["original_max_position_embeddings"]
    with pytest.raises(UnsupportedError, match="without the length"):
        rotary_limit(config)


def test_rotary_modules_keep_their_first_frequencies() -> None:
    one, several = nn.Module(), nn.Module()
    one.rope_type = "longrope"
    several.rope_type = {"full_attention": "dynamic", "sliding_attention": "yarn"}
    fix_frequencies(nn.ModuleList([one, several]))
    assert one.rope_type == "default"
    assert several.rope_type == {"full_attention": "default", "sliding_attention": "yarn"}


def test_temperature_that_counts_the_batch_is_turned_off_where_it_is_one() -> None:
    layer = nn.Module()
    layer.attn_temperature_tuning, layer.floor_scale = True, 8192
    limit = fix_temperature(nn.ModuleList([layer]))
    assert isinstance(limit, ContextLimit)
    assert limit.tokens == 8191
    assert layer.attn_temperature_tuning is False
    assert fix_temperature(nn.ModuleList([layer])) is None


def test_the_longest_context_is_the_configurations() -> None:
    assert longest_context(config_with("default")) == 128
    assert longest_context(config_of("gpt2", n_positions=77)) == 77
    assert longest_context(config_of("bloom")) is None

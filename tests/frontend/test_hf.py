from __future__ import annotations

import pytest

from graphopt.errors import TraceError, UnsupportedError
from graphopt.frontend.hf import trace_decoder
from graphopt.ir.dtype import DType
from tests.models.harness import case, config_of


def test_tied_weights_are_one() -> None:
    graph = case("gpt2").decoder.graph
    names = [value.name for value in graph.weights]
    assert "transformer.wte.weight" in names
    assert "lm_head.weight" not in names


def test_encoders_are_refused() -> None:
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    with pytest.raises(UnsupportedError, match="not causal") as error:
        trace_decoder(config_of("bert", vocab_size=64, intermediate_size=32, **sizes), DType.F32)
    assert "--task embed" in str(error.value)


@pytest.mark.slow
def test_decisions_by_data_are_refused() -> None:
    config = config_of(
        "jetmoe",
        vocab_size=64,
        hidden_size=32,
        num_hidden_layers=1,
        num_key_value_heads=2,
        kv_channels=8,
        intermediate_size=32,
        num_local_experts=4,
    )
    with pytest.raises(TraceError, match="values of tokens"):
        trace_decoder(config, DType.F32)

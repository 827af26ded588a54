from __future__ import annotations

import json
import subprocess
import sys

import pytest

from graphopt.errors import UnsupportedError, UsageError
from graphopt.frontend.trace import Traced, trace
from graphopt.ir.dtype import DType
from graphopt.ir.types import LayerState, StateType
from tests.models.cases import CASES
from tests.models.harness import config_of


def traced(name: str, **arguments) -> Traced:
    model_type, settings = CASES[name]
    return trace(config_of(model_type, **settings), dtype=DType.BF16, **arguments)


@pytest.fixture(scope="module")
def gemma() -> Traced:
    return traced("gemma3_text", max_model_len=100)


def test_inputs_are_those_of_the_engine(gemma: Traced) -> None:
    declared = [f"{value.name}: {value.type}" for value in gemma.graph.inputs]
    assert declared[:7] == [
        "token_ids: i64[T]",
        "positions: i64[T]",
        "rows: i64[R]",
        "slots: i64[T]",
        "starts: i32[S + 1]",
        "lengths: i32[S]",
        "tables: i32[S, P]",
    ]
    assert [value.name for value in gemma.graph.inputs[7:]] == ["kv"]
    assert str(gemma.graph.outputs[0].type) == "bf16[R, 160]"


def test_the_state_has_every_layer_with_its_window(gemma: Traced) -> None:
    layers = [LayerState(2, 24, 24, DType.BF16, window) for window in (8, 0, 8)]
    assert gemma.graph.input("kv").type == StateType("kv", tuple(layers))
    for op in ("kv_write", "attention"):
        assert [node.attrs["layer"] for node in gemma.graph.nodes_named(op)] == [0, 1, 2]


def test_weights_have_the_names_of_the_modules(gemma: Traced) -> None:
    names = {value.name for value in gemma.graph.weights}
    parameters = set(dict(gemma.model.named_parameters()))
    assert names == parameters | set(gemma.constants)
    assert "model.layers.0.self_attn.q_proj.weight" in names
    assert set(gemma.constants) == {
        "model.embed_tokens.embed_scale",
        "model.rotary_emb.full_attention_inv_freq",
        "model.rotary_emb.sliding_attention_inv_freq",
    }


def test_nodes_say_where_they_come_from(gemma: Traced) -> None:
    places = {str(node.loc) for node in gemma.graph.nodes}
    assert all(node.loc is not None for node in gemma.graph.nodes)
    attention = gemma.graph.nodes_named("attention")[1].loc
    assert attention is not None
    assert attention.file == "modeling_gemma3.py"
    assert attention.line > 100
    assert attention.module == "model.layers.1.self_attn"
    assert any("q_proj" in place for place in places)


def test_the_context_is_what_was_asked_for(gemma: Traced) -> None:
    assert gemma.max_model_len == 100
    assert gemma.notes == ()
    assert not any(parameter.device.type != "meta" for parameter in gemma.model.parameters())


@pytest.mark.slow
def test_longrope_limits_the_context_and_says_so() -> None:
    found = traced("phi3_longrope")
    assert found.max_model_len == 64
    assert "longrope switches" in found.notes[0]


def test_a_context_that_longrope_does_not_allow_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="100 tokens") as error:
        traced("phi3_longrope", max_model_len=100)
    assert "64" in str(error.value.next)


def test_a_longer_context_than_the_models_is_refused() -> None:
    with pytest.raises(UsageError, match="more than the model"):
        traced("llama", max_model_len=300)


PROBE = """
import json, resource, time
import torch
torch.set_num_threads(1)
from graphopt.frontend.trace import trace
from graphopt.ir.dtype import DType
from tests.models.harness import config_of
began, cpu = time.monotonic(), time.process_time()
found = trace(config_of({model!r}, **{settings!r}), dtype=DType.BF16)
print(json.dumps({{
    "seconds": time.process_time() - cpu,
    "megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    "layers": len(found.graph.nodes_named("attention")),
}}))
"""
LARGE = {
    "llama": {
        "vocab_size": 128256,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
    },
    "qwen3_moe": {
        "vocab_size": 151936,
        "hidden_size": 2048,
        "num_hidden_layers": 24,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
        "num_experts": 128,
        "num_experts_per_tok": 8,
        "moe_intermediate_size": 768,
    },
}


@pytest.mark.slow
@pytest.mark.parametrize("model", LARGE)
def test_a_large_model_is_traced_without_its_weights(model: str) -> None:
    """Processor time, so that a busy machine does not fail it."""
    script = PROBE.format(model=model, settings=LARGE[model])
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=300
    )
    found = json.loads(ended.stdout.splitlines()[-1])
    assert found["layers"] == LARGE[model]["num_hidden_layers"]
    assert found["seconds"] < 15
    assert found["megabytes"] < 1500

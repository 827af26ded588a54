from __future__ import annotations

import pytest
import torch
from transformers import PreTrainedModel

from graphopt.errors import UnsupportedError
from graphopt.frontend.hf import trace_decoder
from graphopt.frontend.legacy import has_alibi, is_legacy, registered_attention
from graphopt.frontend.skeleton import build
from graphopt.ir.dtype import DType
from tests.models.harness import config_of

SMALL = {"vocab_size": 32, "hidden_size": 16, "n_layer": 2, "n_head": 2}


def bloom(**settings: object) -> PreTrainedModel:
    return build(config_of("bloom", **{**SMALL, **settings}), DType.F32)


def replaced(model: PreTrainedModel) -> list[str]:
    return [name for name, module in model.named_modules() if "forward" in vars(module)]


def test_layers_are_replaced_only_within() -> None:
    model = bloom()
    assert is_legacy(model)
    assert has_alibi(model)
    with registered_attention(model):
        assert replaced(model) == [f"transformer.h.{i}.self_attention" for i in range(2)]
    assert replaced(model) == []


def test_layers_are_put_back_after_an_error() -> None:
    model = bloom()
    with pytest.raises(RuntimeError, match="halfway"), registered_attention(model):
        raise RuntimeError("halfway")
    assert replaced(model) == []


def test_other_models_are_left_alone() -> None:
    sizes = {"vocab_size": 32, "hidden_size": 16, "num_hidden_layers": 1, "intermediate_size": 16}
    model = build(config_of("llama", num_attention_heads=2, **sizes), DType.F32)
    assert not is_legacy(model)
    with registered_attention(model):
        assert replaced(model) == []


def test_blooms_slopes_are_transformers_own() -> None:
    decoder = trace_decoder(
        config_of("bloom", **{**SMALL, "hidden_size": 24, "n_head": 6}), DType.F32
    )
    slopes = [tensor for tensor in decoder.constants.values() if tensor.shape == (6,)]
    powers = [2.0 ** -(2.0 * (i + 1)) for i in range(4)] + [2.0**-1, 2.0**-3]
    assert torch.allclose(slopes[0], torch.tensor(powers))


def test_a_form_the_operator_cannot_say_is_refused() -> None:
    settings = {"vocab_size": 32, "hidden_size": 16, "num_hidden_layers": 1}
    config = config_of("falcon", num_attention_heads=2, alibi=True, **settings)
    with pytest.raises(UnsupportedError, match="bfloat16"):
        trace_decoder(config, DType.F32)
    slow = bloom(pretraining_tp=2, slow_but_exact=True)
    with pytest.raises(UnsupportedError, match="slow_but_exact"), registered_attention(slow):
        pass
    assert replaced(slow) == []

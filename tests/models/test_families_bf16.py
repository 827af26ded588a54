"""In bfloat16 nobody agrees to six digits: ours must be as near to float32 as transformers' own."""

from __future__ import annotations

import copy

import pytest
import torch

from graphopt.frontend.hf import trace_decoder
from graphopt.frontend.twin import reference_model, weights_of
from graphopt.ir.dtype import DType
from tests.models.cases import CASES
from tests.models.harness import Paged, Running, config_of, prompts, reference_logits


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2", "falcon", "bloom", "gptj"])
def test_rounding_is_no_worse_than_transformers_own(name: str) -> None:
    model_type, settings = CASES[name]
    config = config_of(model_type, **settings)
    decoder = trace_decoder(config, DType.BF16)
    reference = reference_model(config, seed=7)
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.copy_(parameter.bfloat16().float())
    (tokens,) = prompts(160, (24,))
    exact = reference_logits(reference, tokens)
    engine, sequence = Paged(decoder.graph, weights_of(reference, decoder)), Running(tokens)
    ours = torch.cat([engine.step([(sequence, count)])[0] for count in (10, 14)])
    theirs = reference_logits(copy.deepcopy(reference).bfloat16(), tokens)

    def error(logits: torch.Tensor) -> float:
        return float((logits.float() - exact).norm() / exact.norm())

    assert 1e-3 < error(ours) < 1.3 * error(theirs)

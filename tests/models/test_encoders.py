"""Encoders, and decoders without their heads: each row is the one that transformers gives."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from graphopt.errors import GraphoptError, UnsupportedError
from graphopt.frontend.hf import trace_decoder
from graphopt.frontend.shrink import shrink
from graphopt.frontend.twin import TOLERANCE, compare
from graphopt.ir.dtype import DType
from graphopt.passes.manager import run_passes
from graphopt.passes.pipeline import decoder_pipeline
from tests.models.harness import config_of

ENCODERS: dict[str, tuple[str, dict[str, Any]]] = {
    "albert": ("albert", {}),
    "bert": ("bert", {}),
    "camembert": ("camembert", {}),
    "distilbert": ("distilbert", {}),
    "electra": ("electra", {"embedding_size": 128}),
    "embedding_gemma": ("gemma3_text", {"use_bidirectional_attention": True}),
    "eurobert": ("eurobert", {}),
    "modernbert": ("modernbert", {}),
    "nomic_bert": ("nomic_bert", {}),
    "qwen3_both_ways": ("qwen3", {"is_causal": False}),
    "roberta": ("roberta", {}),
    "xlm-roberta": ("xlm-roberta", {}),
}
DECODERS = ("gemma3_text", "llama", "mistral", "qwen2", "qwen3")
FAST = ("bert", "modernbert", "roberta", "qwen3")


def some_fast(names: Iterable[str]) -> list[Any]:
    """The names; those that repeat what others show are for the long run."""
    return [one if one in FAST else pytest.param(one, marks=pytest.mark.full) for one in names]


def rewritten(decoder: Any) -> Any:
    return run_passes(decoder.graph, decoder_pipeline(decoder.scalars))[0]


@pytest.mark.parametrize("name", some_fast(ENCODERS))
def test_tokens_of_an_encoder_see_all_others(name: str) -> None:
    model_type, settings = ENCODERS[name]
    config = shrink(config_of(model_type, **settings))
    decoder = trace_decoder(config, DType.F32, "embed")
    attentions = decoder.graph.nodes_named("attention")
    assert all(node.attrs["reach"] for node in attentions)
    assert any(value.name == "reaches" for value in decoder.graph.inputs)
    assert compare(config, decoder, seed=3, rewrite=rewritten) < TOLERANCE


@pytest.mark.parametrize("name", some_fast(DECODERS))
def test_tokens_of_a_decoder_see_the_past(name: str) -> None:
    config = shrink(config_of(name))
    decoder = trace_decoder(config, DType.F32, "embed")
    assert not any(value.name == "reaches" for value in decoder.graph.inputs)
    assert compare(config, decoder, seed=3, rewrite=rewritten) < TOLERANCE


def test_windows_of_local_layers_are_those_of_the_model() -> None:
    """ModernBERT counts the tokens on one side of a token, we the one in the middle too."""
    config = shrink(config_of("modernbert", local_attention=128))
    decoder = trace_decoder(config, DType.F32, "embed")
    windows = {node.attrs["window"] for node in decoder.graph.nodes_named("attention")}
    assert windows == {0, config.local_attention // 2 + 1}


@pytest.mark.parametrize("model_type", ["deberta-v2", "funnel", "mpnet", "fnet", "bart", "vit"])
def test_what_cannot_embed_is_refused_with_a_reason(model_type: str) -> None:
    with pytest.raises(GraphoptError) as error:
        trace_decoder(shrink(config_of(model_type)), DType.F32, "embed")
    assert error.value.what


def test_an_encoder_does_not_say_what_comes_next() -> None:
    with pytest.raises(UnsupportedError) as error:
        trace_decoder(shrink(config_of("bert")), DType.F32)
    assert "--task embed" in str(error.value.next)

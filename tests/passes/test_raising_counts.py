"""How many operators raising makes of each family: a rule that stops matching is a failure here.

A count is (for each layer, besides): 5 norms of a llama with 2 layers are (2, 1).
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Mapping

import pytest

from graphopt.frontend.hf import Decoder, trace_decoder
from graphopt.frontend.skeleton import text_config
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph
from tests.models.families import small_config

from .numbers import reasons, rewritten
from .raising import raised, raising

# A column is an operator, or "scale", which is embeddings with a scale. Others are not counted.
COLUMNS = ("rms_norm", "layer_norm", "glu", "gelu", "softcap", "scale")
COUNTS: Mapping[str, Mapping[str, tuple[int, int]]] = {
    "afmoe": {"rms_norm": (6, 1), "glu": (2, 0)},
    "apertus": {"rms_norm": (4, 1)},
    "arcee": {"rms_norm": (2, 1)},
    "aria_text": {"rms_norm": (2, 1), "glu": (1, 0)},
    "biogpt": {"layer_norm": (2, 1), "gelu": (1, 0), "scale": (0, 1)},
    "bitnet": {"rms_norm": (4, 1), "glu": (1, 0)},
    "bloom": {"layer_norm": (2, 2), "gelu": (1, 0)},
    "codegen": {"layer_norm": (1, 1), "gelu": (1, 0)},
    "cohere": {"layer_norm": (1, 1), "glu": (1, 0)},
    "cohere2": {"layer_norm": (1, 1), "glu": (1, 0)},
    "cohere2_moe": {"layer_norm": (1, 1)},
    "ctrl": {"layer_norm": (2, 1), "scale": (0, 1)},
    "cwm": {"rms_norm": (2, 1), "glu": (1, 0)},
    "deepseek_v2": {"rms_norm": (4, 1), "glu": (1, 0)},
    "deepseek_v3": {"rms_norm": (4, 1), "glu": (1, 0)},
    "diffllama": {"rms_norm": (3, 1), "glu": (1, 0)},
    "dots1": {"rms_norm": (4, 1), "glu": (1, 0)},
    "ernie4_5": {"rms_norm": (2, 1), "glu": (1, 0)},
    "ernie4_5_moe": {"rms_norm": (2, 1), "glu": (1, 0)},
    "exaone4": {"rms_norm": (4, 1), "glu": (1, 0)},
    "falcon": {"layer_norm": (1, 1), "gelu": (1, 0)},
    "flex_olmo": {"rms_norm": (4, 1)},
    "gemma": {"rms_norm": (2, 1), "glu": (1, 0), "scale": (0, 1)},
    "gemma2": {"rms_norm": (4, 1), "glu": (1, 0), "softcap": (0, 1), "scale": (0, 1)},
    "gemma3_text": {"rms_norm": (6, 1), "glu": (1, 0), "scale": (0, 1)},
    "glm": {"rms_norm": (2, 1), "glu": (1, 0)},
    "glm4": {"rms_norm": (4, 1), "glu": (1, 0)},
    "glm4_moe": {"rms_norm": (2, 1), "glu": (1, 0)},
    "gpt2": {"layer_norm": (2, 1), "gelu": (1, 0)},
    "gpt_bigcode": {"layer_norm": (2, 1), "gelu": (1, 0)},
    "gpt_neo": {"layer_norm": (2, 1), "gelu": (1, 0)},
    "gpt_neox": {"layer_norm": (2, 1), "gelu": (1, 0)},
    "gpt_oss": {"rms_norm": (2, 1)},
    "gptj": {"layer_norm": (1, 1), "gelu": (1, 0)},
    "granite": {"rms_norm": (2, 1), "glu": (1, 0)},
    "granitemoe": {"rms_norm": (2, 1)},
    "helium": {"rms_norm": (2, 1), "glu": (1, 0)},
    "hunyuan_v1_dense": {"rms_norm": (4, 1), "glu": (1, 0)},
    "hyperclovax": {"rms_norm": (4, 1), "glu": (1, 0)},
    "internlm3": {"rms_norm": (2, 1), "glu": (1, 0)},
    "lfm2": {"rms_norm": (4, 1), "glu": (1, 0)},
    "llama": {"rms_norm": (2, 1), "glu": (1, 0)},
    # Queries and keys of the 8 layers with rotary positions are normalized without a weight.
    "llama4_text": {"rms_norm": (2, 1 + 2 * 8), "glu": (2, 0)},
    "minicpm3": {"rms_norm": (4, 1), "glu": (1, 0), "scale": (0, 1)},
    "minimax_m2": {"rms_norm": (4, 1)},
    "ministral": {"rms_norm": (2, 1), "glu": (1, 0)},
    "mistral": {"rms_norm": (2, 1), "glu": (1, 0)},
    "mixtral": {"rms_norm": (2, 1)},
    # The first layer has no norm before its attention; the head has a GELU and a norm.
    "modernbert-decoder": {"layer_norm": (2, 2), "glu": (1, 0), "gelu": (0, 1)},
    "mpt": {"layer_norm": (2, 1), "gelu": (1, 0)},
    "nanochat": {"rms_norm": (4, 2), "softcap": (0, 1)},
    "nemotron": {"layer_norm": (2, 1)},
    "olmo": {"layer_norm": (2, 1), "glu": (1, 0)},
    "olmo2": {"rms_norm": (4, 1), "glu": (1, 0)},
    "olmo3": {"rms_norm": (4, 1), "glu": (1, 0)},
    "olmoe": {"rms_norm": (4, 1)},
    "openai-gpt": {"layer_norm": (2, 0), "gelu": (1, 0)},
    "opt": {"layer_norm": (2, 1)},
    "persimmon": {"layer_norm": (4, 1)},
    "phi": {"layer_norm": (1, 1), "gelu": (1, 0)},
    "phi3": {"rms_norm": (2, 1), "glu": (1, 0)},
    "phimoe": {"layer_norm": (2, 1)},
    "qwen2": {"rms_norm": (2, 1), "glu": (1, 0)},
    "qwen2_moe": {"rms_norm": (2, 1), "glu": (1, 0)},
    "qwen3": {"rms_norm": (4, 1), "glu": (1, 0)},
    "qwen3_moe": {"rms_norm": (4, 1)},
    "seed_oss": {"rms_norm": (2, 1), "glu": (1, 0)},
    "smollm3": {"rms_norm": (2, 1), "glu": (1, 0)},
    "stablelm": {"layer_norm": (2, 1), "glu": (1, 0)},
    "starcoder2": {"layer_norm": (2, 1), "gelu": (1, 0)},
    "vaultgemma": {"rms_norm": (2, 1), "glu": (1, 0), "softcap": (0, 1), "scale": (0, 1)},
    "xglm": {"layer_norm": (2, 1), "gelu": (1, 0), "scale": (0, 1)},
}
_SQUARE = "a value times its own activation"  # of a square of relu, which gates nothing
# What is refused, or nearly matched, and why that is right. No other family leaves anything.
REFUSED: Mapping[str, str] = {
    "arcee": _SQUARE,
    "llama4_text": "the second factor is no single matrix",  # all experts at once
    "nanochat": _SQUARE,
    "nemotron": _SQUARE,
    "persimmon": _SQUARE,
    "qwen2_moe": "the gate is bf16[T, 1], and bf16[T, 64] is gated",  # one gate for a whole row
}
FAST = ("gpt2", "gemma2")


def counts_of(graph: Graph) -> dict[str, int]:
    found = Counter(node.op for node in graph.nodes)
    found["scale"] = sum(node.attrs["scale"] != 1.0 for node in graph.nodes_named("embed"))
    return {column: found[column] for column in COLUMNS}


def expected(family: str, layers: int) -> dict[str, int]:
    row = COUNTS[family]
    pairs = {column: row.get(column, (0, 0)) for column in COLUMNS}
    return {column: each * layers + besides for column, (each, besides) in pairs.items()}


@pytest.mark.parametrize(
    "family",
    [*FAST, *(pytest.param(name, marks=pytest.mark.full) for name in COUNTS if name not in FAST)],
)
def test_every_family_gives_its_matches_and_leaves_nothing(family: str) -> None:
    graph, entries = raised(family, DType.BF16)
    layers = text_config(small_config(family)).num_hidden_layers
    assert counts_of(graph) == expected(family, layers)
    left = {reason for reason in reasons(entries, "product-of-one-term").split("; ") if reason}
    assert left == {REFUSED[family]} if family in REFUSED else not left


def with_layers(family: str, layers: int) -> Decoder:
    config = small_config(family)
    config.num_hidden_layers = layers
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return trace_decoder(config, DType.BF16)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_counts_grow_with_the_layers(family: str) -> None:
    for layers in (1, 3):
        decoder = with_layers(family, layers)
        graph, _ = rewritten(decoder.graph, *raising(decoder))
        assert counts_of(graph) == expected(family, layers)


@pytest.mark.slow
def test_float32_gives_the_same_matches() -> None:
    graph, entries = raised("llama", DType.F32)
    assert counts_of(graph) == expected("llama", 2)
    assert not reasons(entries, "product-of-one-term")

"""Encoders in C++: every step has a kernel, and rows are those of transformers, in any batch.

Tokens see what comes after them, so each text is computed in one step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModel, PreTrainedModel

from graphopt import api
from graphopt.artifact import Artifact
from graphopt.config import EMBED
from graphopt.frontend.quiet import quiet
from graphopt.frontend.twin import Proof, reference_model
from graphopt.ir.parser import parse_graph
from graphopt.isa import FORCE, host_isas
from graphopt.runtime.executors.torch import weight_tensor
from graphopt.runtime.executors.verification import relative_error
from tests.models.harness import BLOCK, Engine, Paged, Running, config_of, prompts
from tests.models.native import Native

# No multiple of a register's width, nor of a panel's or a tile's rows.
_SIZES: Mapping[str, Any] = {
    "vocab_size": 163,
    "hidden_size": 72,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 104,
    "max_position_embeddings": 150,
}
# Every second layer of modernbert sees eight tokens on either side.
ENCODERS: Mapping[str, Mapping[str, Any]] = {
    "bert": _SIZES,
    "modernbert": {
        **_SIZES,
        "local_attention": 16,
        "global_attn_every_n_layers": 2,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "cls_token_id": 1,
        "sep_token_id": 2,
    },
    "roberta": {**_SIZES, "pad_token_id": 1},
    "distilbert": {
        "vocab_size": 163,
        "dim": 72,
        "n_layers": 2,
        "n_heads": 3,
        "hidden_dim": 104,
        "max_position_embeddings": 150,
    },
    "electra": {**_SIZES, "embedding_size": 40},
    "albert": {**_SIZES, "embedding_size": 40},
}
NAMES = [
    name if name == "modernbert" else pytest.param(name, marks=pytest.mark.full)
    for name in ENCODERS
]
_LENGTHS = (30, 1, 131, 16, 2)


@pytest.fixture(autouse=True)
def only_kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twins have tests of their own; what is compiled is compiled here."""
    monkeypatch.setenv("GRAPHOPT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("graphopt.frontend.trace.prove", lambda *args, **named: Proof(None))


def saved(name: str, folder: Path) -> PreTrainedModel:
    """A checkpoint of random weights, numbers of bfloat16; the model in float32."""
    model = reference_model(config_of(name, **ENCODERS[name]), seed=7, task=EMBED)
    with torch.no_grad(), quiet():
        for parameter in model.parameters():
            parameter.copy_(parameter.bfloat16())
        model.save_pretrained(folder)
    return model


def compiled(folder: Path, dtype: str, quantize: str | None = None) -> Artifact:
    """The checkpoint's plan, of whose steps none is left to PyTorch."""
    output = folder.with_suffix(f".{dtype}{quantize or ''}.gopt")
    artifact = api.compile_checkpoint(
        folder, output, task=EMBED, dtype=dtype, block_size=BLOCK, quantize=quantize
    )
    assert artifact.plan.backends() == {"cpp"}
    assert artifact.plan.embedding is not None
    assert artifact.plan.embedding.whole
    return artifact


def texts_of(seed: int) -> list[list[int]]:
    """Random texts without token 1, which is no token of a text but padding for RoBERTa's kin."""
    given = prompts(_SIZES["vocab_size"], _LENGTHS, seed=seed)
    return [[token + (token == 1) for token in text] for text in given]


def rows_of(model: PreTrainedModel, texts: Sequence[list[int]]) -> Tensor:
    """What transformers makes of each text by itself."""
    with torch.no_grad(), quiet():
        return torch.cat(
            [model(input_ids=torch.tensor([text])).last_hidden_state[0].float() for text in texts]
        )


def rows_from(engine: Engine, texts: Sequence[list[int]]) -> list[Tensor]:
    """The rows of each text, computed together in one step."""
    running = [Running(tokens) for tokens in texts]
    found = engine.step([(one, len(one.tokens)) for one in running])
    engine.free += [block for one in running for block in one.blocks]
    return found


def check(name: str, folder: Path) -> None:
    exact = saved(name, folder)
    texts = texts_of(seed=1)
    artifact = compiled(folder, "float32")
    engine = Native(artifact)
    found = rows_from(engine, texts)
    assert relative_error(torch.cat(found), rows_of(exact, texts)) < 1e-5
    for text, rows in zip(texts, found, strict=True):
        (alone,) = rows_from(engine, [text])
        assert torch.equal(alone, rows)
    graph = parse_graph(artifact.graph_text())
    weights = {value.name: weight_tensor(artifact, value.name) for value in graph.weights}
    interpreted = rows_from(Paged(graph, weights), texts)
    assert relative_error(torch.cat(found), torch.cat(interpreted)) < 1e-5


@pytest.mark.parametrize("name", NAMES)
def test_rows_are_those_of_transformers_and_of_the_interpreter(name: str, tmp_path: Path) -> None:
    check(name, tmp_path / "checkpoint")


@pytest.mark.full
@pytest.mark.parametrize("isa", [isa.name for isa in host_isas()[1:]])
def test_other_instruction_sets_give_the_same(
    isa: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(FORCE, isa)
    check("modernbert", tmp_path / "checkpoint")


@pytest.mark.full
@pytest.mark.parametrize("name", ["roberta", "modernbert"])
def test_bfloat16_rounds_no_worse_than_transformers(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    exact, texts = saved(name, folder), texts_of(seed=2)
    with quiet():
        rounded = AutoModel.from_pretrained(
            folder, dtype=torch.bfloat16, attn_implementation="eager"
        )
    found = rows_from(Native(compiled(folder, "bfloat16")), texts)
    expected = rows_of(exact, texts)
    theirs = relative_error(rows_of(rounded, texts), expected)
    assert 1e-4 < relative_error(torch.cat(found), expected) < 2 * theirs


@pytest.mark.full
@pytest.mark.parametrize("quantize", ["int8", "int4"])
def test_weights_in_few_bits(quantize: str, tmp_path: Path) -> None:
    """No step is PyTorch's, and numbers are the quantized graph's."""
    saved("bert", tmp_path / "checkpoint")
    artifact = compiled(tmp_path / "checkpoint", "float32", quantize)
    assert api.verify_artifact(artifact.path, tokens=range(1, 60)).agrees

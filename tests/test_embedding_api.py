"""A checkpoint that embeds goes in, and the vectors of transformers come out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModel

import graphopt
from graphopt import api, onnx_api
from graphopt.artifact import Artifact
from graphopt.embedding import Dense, Embedding
from graphopt.errors import CheckpointError, UnsupportedError, UsageError
from tests.checkpoints import save_tiny

PROMPTS = [[5, 6, 7], list(range(3, 40)), [11], [90, 4] * 11]
# Dimensions that encoders call otherwise, or whose tables begin behind padding.
NAMES: dict[str, dict[str, Any]] = {
    "distilbert": {"dim": 64, "hidden_dim": 96, "n_heads": 4, "n_layers": 3},
    "roberta": {"pad_token_id": 1},
    "modernbert": {"local_attention": 8, "global_attn_every_n_layers": 2},
}
Pool = Callable[[torch.Tensor], torch.Tensor]


def save(folder: Path, model_type: str, **fields: Any) -> Path:
    return save_tiny(
        folder, model_type, class_name="AutoModel", **{**NAMES.get(model_type, {}), **fields}
    )


def by_transformers(folder: Path, prompt: list[int], pool: Pool) -> np.ndarray:
    model = AutoModel.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    with torch.no_grad():
        rows = model(input_ids=torch.tensor([prompt])).last_hidden_state[0]
    return pool(rows.double()).numpy()


def unit(vector: torch.Tensor) -> torch.Tensor:
    return vector.div(vector.norm())


def error_of(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


def check(artifact: Artifact, folder: Path, pool: Pool) -> None:
    with graphopt.LLM(artifact) as llm:
        found = [out.embedding for out in llm.embed(PROMPTS)]
    for prompt, vector in zip(PROMPTS, found, strict=True):
        assert error_of(vector, by_transformers(folder, prompt, pool)) < 1e-5


@pytest.mark.parametrize(
    "model_type",
    [
        "roberta",
        *(
            pytest.param(one, marks=pytest.mark.full)
            for one in ("bert", "distilbert", "modernbert")
        ),
    ],
)
def test_an_encoder_embeds_as_transformers_does(tmp_path: Path, model_type: str) -> None:
    folder = save(tmp_path / "model", model_type)
    artifact = api.compile_checkpoint(folder, tmp_path / "a.gopt")
    assert artifact.plan.embedding == Embedding(64, "mean", normalize=True, whole=True)
    assert any("no file says how vectors are made" in note for note in artifact.model.notes)
    check(artifact, folder, lambda rows: unit(rows.mean(0)))


def test_a_decoder_embeds_as_transformers_does(tmp_path: Path) -> None:
    folder = save(tmp_path / "model", "qwen3")
    artifact = api.compile_checkpoint(
        folder, tmp_path / "a.gopt", task="embed", pooling="max", normalize=False
    )
    assert artifact.plan.embedding == Embedding(64, "max", normalize=False, whole=False)
    assert not artifact.model.notes
    check(artifact, folder, lambda rows: rows.max(0).values)


def with_modules(folder: Path, inputs: int = 64) -> tuple[Path, torch.Tensor]:
    """Files of sentence-transformers for mean, a dense layer and length 1."""
    kinds = ("", "1_Pooling", "2_Dense", "3_Normalize")
    rows = [
        {"path": path, "type": f"sentence_transformers.models.{path[2:] or 'Transformer'}"}
        for path in kinds
    ]
    (folder / "modules.json").write_text(json.dumps(rows))
    for path in kinds[1:3]:
        (folder / path).mkdir()
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_cls_token": true}')
    dense: dict[str, Any] = {"in_features": inputs, "out_features": 24, "bias": False}
    dense["activation_function"] = "torch.nn.modules.linear.Identity"
    (folder / "2_Dense" / "config.json").write_text(json.dumps(dense))
    weight = torch.randn(24, inputs, generator=torch.Generator().manual_seed(5))
    save_file({"linear.weight": weight}, folder / "2_Dense" / "model.safetensors")
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 100}')
    return folder, weight


def test_files_of_sentence_transformers_say_how(tmp_path: Path) -> None:
    folder, weight = with_modules(save(tmp_path / "model", "qwen3"))
    artifact = api.compile_checkpoint(folder, tmp_path / "a.gopt")
    name = "2_Dense/linear.weight"
    assert artifact.plan.embedding == Embedding(
        64, "cls", normalize=True, whole=False, dense=(Dense(name, "", 64, 24, "identity"),)
    )
    assert (artifact.dense_weights()[name] == weight.numpy()).all()
    assert artifact.plan.limits.max_model_len == 100
    check(artifact, folder, lambda rows: unit(weight.double() @ rows[0]))
    longer = api.compile_options(max_model_len=120)
    assert api.factors_of(folder, longer)["file 2_Dense/config.json"]


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    bert = save(tmp_path / "bert", "bert")
    with pytest.raises(UnsupportedError, match="no causal") as error:
        api.compile_checkpoint(bert, tmp_path / "a.gopt", task="generate")
    assert "--task embed" in str(error.value.next)
    with pytest.raises(UsageError, match="only a model that embeds"):
        api.compile_checkpoint(save_tiny(tmp_path / "llama"), tmp_path / "a.gopt", pooling="cls")
    folder, _ = with_modules(save(tmp_path / "qwen", "qwen3"), inputs=63)
    with pytest.raises(CheckpointError, match="another number of entries"):
        api.compile_checkpoint(folder, tmp_path / "a.gopt")


@pytest.mark.full
def test_a_checkpoint_with_a_head_is_used_without_it(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "m", "bert", class_name="AutoModelForMaskedLM")
    check(
        api.compile_checkpoint(folder, tmp_path / "a.gopt"), folder, lambda rows: unit(rows.mean(0))
    )


def test_onnx_says_nothing_of_vectors(tmp_path: Path) -> None:
    artifact = api.compile_checkpoint(
        save(tmp_path / "m", "qwen3", num_hidden_layers=1), tmp_path / "a.gopt", task="embed"
    )
    with pytest.raises(UnsupportedError, match="cannot be exported"):
        onnx_api.export_onnx(artifact.path, tmp_path / "a.onnx")
    with pytest.raises(UnsupportedError, match="cannot be compiled for vectors"):
        onnx_api.compile_onnx(tmp_path / "a.onnx", tmp_path / "b.gopt", pooling="cls")

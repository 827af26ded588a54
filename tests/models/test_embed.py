"""Vectors of whole models: those of transformers' rows in float32, pooled by the definitions.

Texts of many lengths come in one call, so that they share steps, and again one by one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModel, PreTrainedModel

from graphopt import api
from graphopt.artifact import Artifact
from graphopt.embedding import POOLINGS
from graphopt.frontend.quiet import quiet
from graphopt.frontend.twin import Proof
from graphopt.runtime.llm import LLM
from tests.checkpoints import save_tiny

VOCAB = 97
# Every second layer of modernbert sees eight tokens on either side.
MODELS: Mapping[str, Mapping[str, Any]] = {
    "bert": {"num_hidden_layers": 2},
    "modernbert": {
        "num_hidden_layers": 2,
        "local_attention": 16,
        "global_attn_every_n_layers": 2,
        "cls_token_id": 1,
        "sep_token_id": 2,
    },
    "qwen3": {"num_hidden_layers": 2},
}
LENGTHS = (1, 2, 3, 5, 17, 31, 64, 97, 128, 1, 8)


def texts(seed: int) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [rng.integers(3, VOCAB, length).tolist() for length in rng.permutation(LENGTHS)]


def by_transformers(model: PreTrainedModel, text: list[int], pooling: str) -> np.ndarray:
    """The vector of one text, in float64 from the rows on."""
    with torch.no_grad(), quiet():
        rows = model(input_ids=torch.tensor([text])).last_hidden_state[0].double()
    weights = torch.arange(1, len(rows) + 1).double()
    pooled = {
        "mean": lambda: rows.mean(0),
        "cls": lambda: rows[0],
        "last": lambda: rows[-1],
        "max": lambda: rows.max(0).values,
        "mean_sqrt_len": lambda: rows.sum(0) / len(rows) ** 0.5,
        "weighted_mean": lambda: weights @ rows / weights.sum(),
    }[pooling]()
    return torch.nn.functional.normalize(pooled, dim=0).numpy()


def compiled(
    model_type: str, folder: Path, dtype: str, target: str = "cpu"
) -> tuple[Artifact, PreTrainedModel]:
    """A random checkpoint's plan, and the model in float32 with the same weights."""
    torch_dtype = "float32" if dtype == "float32" else "bfloat16"
    checkpoint = save_tiny(
        folder / model_type,
        model_type,
        class_name="AutoModel",
        dtype=torch_dtype,
        **MODELS[model_type],
    )
    output = folder / f"{model_type}.gopt"
    artifact = api.compile_checkpoint(
        checkpoint, output, task="embed", dtype=dtype, block_size=16, target=target
    )
    with quiet():
        model = AutoModel.from_pretrained(
            checkpoint, dtype=torch.float32, attn_implementation="eager"
        )
    return artifact, model.train(False)


@pytest.mark.full
@pytest.mark.parametrize(
    ("model_type", "dtype"),
    [
        ("bert", "float32"),
        ("modernbert", "float32"),
        ("modernbert", "bfloat16"),
        ("qwen3", "float32"),
    ],
)
def test_vectors_are_those_of_transformers(
    model_type: str, dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Twins have tests of their own.
    monkeypatch.setattr("graphopt.frontend.trace.prove", lambda *args, **named: Proof(None))
    artifact, model = compiled(model_type, tmp_path, dtype)
    least, most = (1.0 - 1e-6, 1e-5) if dtype == "float32" else (0.999, 3e-2)
    embedding = artifact.plan.embedding
    assert embedding is not None
    assert embedding.whole == (model_type != "qwen3")
    for pooling in POOLINGS:
        plan = replace(artifact.plan, embedding=replace(embedding, pooling=pooling))
        steps = 128 if embedding.whole else 48
        options = {"max_num_batched_tokens": steps, "max_num_seqs": 5, "threads": 1}
        with LLM(replace(artifact, plan=plan), **options) as llm:
            given = texts(len(pooling))
            outputs = llm.embed(given)
            for text, output in zip(given, outputs, strict=True):
                want = by_transformers(model, text, pooling)
                assert output.embedding @ want > least
                assert np.abs(output.embedding - want).max() < most
                alone = llm.embed([text])[0].embedding
                assert alone.tobytes() == output.embedding.tobytes()

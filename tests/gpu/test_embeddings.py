"""Vectors on the device: those of transformers in float32, many texts a step and one alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from graphopt.runtime.llm import LLM
from tests.models.test_embed import MODELS, by_transformers, compiled, texts

from .test_families import target

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("model_type", MODELS)
def test_vectors_are_those_of_transformers(model_type: str, dtype: str, tmp_path: Path) -> None:
    artifact, model = compiled(model_type, tmp_path, dtype, target())
    embedding = artifact.plan.embedding
    assert embedding is not None
    least, most = (1.0 - 1e-6, 1e-5) if dtype == "float32" else (0.999, 3e-2)
    with LLM(artifact, max_num_batched_tokens=128, max_num_seqs=5) as llm:
        given = texts(3)
        alone = [llm.embed([text])[0].embedding for text in given]
        for text, output, single in zip(given, llm.embed(given), alone, strict=True):
            want = by_transformers(model, text, embedding.pooling)
            for found in (output.embedding, single):
                assert found @ want > least
                assert np.abs(found - want).max() < most

"""Embeddings' fields."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from graphopt.runtime.server.protocol.embeddings import EmbeddingRequest


def test_the_input_is_a_prompt_in_any_form() -> None:
    assert EmbeddingRequest.model_validate({"input": ["a", "b"]}).input == ["a", "b"]
    with pytest.raises(ValidationError):
        EmbeddingRequest.model_validate({"input": 1})

"""Embeddings' fields."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from graphopt.runtime.server.protocol.embeddings import EmbeddingRequest


def test_the_input_is_a_prompt_in_any_form() -> None:
    assert EmbeddingRequest.model_validate({"input": ["a", "b"]}).input == ["a", "b"]
    with pytest.raises(ValidationError):
        EmbeddingRequest.model_validate({"input": 1})


def test_the_form_and_the_size_are_of_those_there_are() -> None:
    given = {"input": "a", "encoding_format": "base64", "dimensions": 1, "cache_salt": "s"}
    assert EmbeddingRequest.model_validate(given).unknown() == []
    for wrong in ({"encoding_format": "uint8"}, {"dimensions": 0}, {"dimensions": 2**31}):
        with pytest.raises(ValidationError):
            EmbeddingRequest.model_validate({"input": "a", **wrong})

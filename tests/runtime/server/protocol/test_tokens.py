"""Tokenizing's own fields."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from graphopt.runtime.server.protocol.tokens import DetokenizeRequest, TokenizeRequest


def test_tokens_are_token_ids() -> None:
    assert DetokenizeRequest.model_validate({"tokens": []}).tokens == []
    for wrong in ({}, {"tokens": "a"}, {"tokens": [1.5]}, {"tokens": [-1]}):
        with pytest.raises(ValidationError):
            DetokenizeRequest.model_validate(wrong)


def test_a_prompt_is_one_text() -> None:
    assert TokenizeRequest.model_validate({"prompt": ""}).prompt == ""
    with pytest.raises(ValidationError):
        TokenizeRequest.model_validate({"prompt": ["a"]})

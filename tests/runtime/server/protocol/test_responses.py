"""Responses' fields."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from graphopt.runtime.server.protocol.responses import ResponsesRequest


def test_an_input_is_text_or_items() -> None:
    assert ResponsesRequest.model_validate({"input": "a"}).input == "a"
    items = [{"role": "user", "content": [{"type": "input_text", "text": "a"}]}]
    assert len(ResponsesRequest.model_validate({"input": items}).input) == 1


@pytest.mark.parametrize(
    "wrong",
    [{}, {"input": 1}, {"input": [1]}, {"input": "a", "max_output_tokens": "1"}],
)
def test_wrong_types_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ResponsesRequest.model_validate(wrong)


def test_unknown_fields_are_named() -> None:
    found = ResponsesRequest.model_validate({"input": "a", "b": 1, "text": {"c": 1}})
    assert found.unknown() == ["b", "text.c"]

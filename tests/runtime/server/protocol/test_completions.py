"""Completions' own fields."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from graphopt.runtime.server.protocol.completions import Completion, CompletionRequest


def test_a_prompt_is_needed_and_nothing_else() -> None:
    found = CompletionRequest.model_validate({"prompt": "a"})
    assert found.prompt == ["a"]
    assert found.unknown() == []
    with pytest.raises(ValidationError):
        CompletionRequest.model_validate({})


@pytest.mark.parametrize("field", ["best_of", "logprobs", "echo", "suffix"])
def test_the_fields_of_completions_are_strict(field: str) -> None:
    with pytest.raises(ValidationError):
        CompletionRequest.model_validate({"prompt": "a", field: [1]})


def test_an_answer_says_what_it_is() -> None:
    assert Completion(id="a", created=1, model="m", choices=[]).object == "text_completion"

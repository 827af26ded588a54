"""Chat's own fields."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from graphopt.runtime.server.protocol.chat import ChatMessage, ChatRequest

MESSAGES = [{"role": "user", "content": "a"}]


def test_messages_are_needed_at_least_one() -> None:
    assert ChatRequest.model_validate({"messages": MESSAGES}).unknown() == []
    for wrong in ({}, {"messages": []}, {"messages": "a"}, {"messages": [{"role": "user"}, 3]}):
        with pytest.raises(ValidationError):
            ChatRequest.model_validate(wrong)


def test_many_wrong_messages_are_one_complaint() -> None:
    with pytest.raises(ValidationError) as caught:
        ChatRequest.model_validate({"messages": [{"role": 1}] * 10_000})
    assert caught.value.error_count() == 1


def test_what_clients_send_without_consequence_is_known() -> None:
    sent = {"messages": MESSAGES, "user": "u", "metadata": {}, "store": False, "seed": None}
    assert ChatRequest.model_validate(sent).unknown() == []


def test_the_assistant_answers() -> None:
    assert ChatMessage(content="x").role == "assistant"

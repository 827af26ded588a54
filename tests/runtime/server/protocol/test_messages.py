"""Messages as templates take them."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from graphopt.runtime.server.protocol.common import MAX_ITEMS
from graphopt.runtime.server.protocol.messages import Conversation, Message


def _plain(**fields: Any) -> dict[str, Any]:
    return Message.model_validate(fields).plain()


def test_text_parts_become_one_text() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "input_text", "text": "b"}]
    assert _plain(role="user", content=parts) == {"role": "user", "content": "a\nb"}


def test_developers_speak_as_the_system_does() -> None:
    assert _plain(role="developer", content="x")["role"] == "system"


def test_calls_have_their_arguments_as_objects() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    found = _plain(role="assistant", content=None, tool_calls=[call])
    assert found["content"] == ""
    assert found["tool_calls"][0]["function"] == {"name": "f", "arguments": {"a": 1}}
    call["function"] = {"name": "f", "arguments": "no json"}
    found = _plain(role="assistant", tool_calls=[call])
    assert found["tool_calls"][0]["function"]["arguments"] == "no json"


def test_what_else_a_message_holds_reaches_the_template() -> None:
    found = _plain(role="tool", content="3", tool_call_id="1", name="f", weight=2)
    assert found == {"role": "tool", "content": "3", "tool_call_id": "1", "name": "f", "weight": 2}


@pytest.mark.parametrize("kind", ["image_url", "input_audio", "file", "refusal"])
def test_other_parts_are_refused(kind: str) -> None:
    with pytest.raises(ValueError, match=kind):
        _plain(role="user", content=[{"type": kind, kind: {}}])


def test_conversations_have_an_end() -> None:
    talk = TypeAdapter[Any](Conversation)
    one = {"role": "user", "content": "a"}
    assert len(talk.validate_python([one] * MAX_ITEMS)) == MAX_ITEMS
    with pytest.raises(ValidationError) as caught:
        talk.validate_python([one] * (MAX_ITEMS + 1))
    assert caught.value.error_count() == 1


@pytest.mark.parametrize(
    "fields",
    [{}, {"role": "function", "content": "x"}, {"role": "user", "content": 3}, {"role": 1}],
)
def test_what_is_no_message_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Message.model_validate(fields)

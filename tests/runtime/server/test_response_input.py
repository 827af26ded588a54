"""Items become messages, and tools those of a chat."""

from __future__ import annotations

from typing import Any

import pytest

from graphopt.runtime.server.http_errors import ApiError
from graphopt.runtime.server.protocol.responses import ResponsesRequest
from graphopt.runtime.server.response_input import messages_of, offer_of
from graphopt.runtime.server.tool_calls import Offer


def request(given: Any, **fields: Any) -> ResponsesRequest:
    return ResponsesRequest.model_validate({"input": given, **fields})


def call(name: str) -> dict[str, Any]:
    return {"type": "function_call", "call_id": name, "name": "f", "arguments": '{"a": 1}'}


def test_text_is_a_message_of_the_user() -> None:
    found = [one.plain() for one in messages_of(request("a", instructions="b"))]
    assert found == [{"role": "system", "content": "b"}, {"role": "user", "content": "a"}]


def test_calls_belong_to_the_assistant_before_them() -> None:
    said = {"type": "message", "role": "assistant", "id": "msg", "status": "completed",
            "content": [{"type": "output_text", "text": "So", "annotations": []}]}  # fmt: skip
    output = {"type": "function_call_output", "call_id": "1", "output": "x"}
    found = messages_of(
        request([{"role": "user", "content": "a"}, said, call("1"), call("2"), output, call("3")])
    )
    assert [one.role for one in found] == ["user", "assistant", "tool", "assistant"]
    assert [one.id for one in found[1].tool_calls or ()] == ["1", "2"]
    assert (found[1].text(), found[2].tool_call_id, found[2].text()) == ("So", "1", "x")
    plain = found[3].plain()
    assert plain["tool_calls"][0]["function"] == {"name": "f", "arguments": {"a": 1}}


@pytest.mark.parametrize(
    ("item", "param"),
    [
        ({"type": "function_call", "call_id": "1", "arguments": "{}"}, "input.0.name"),
        ({"type": "function_call", "name": "f", "arguments": "{}"}, "input.0.call_id"),
        ({"type": "function_call_output", "call_id": "1"}, "input.0.output"),
        ({"type": "reasoning", "summary": []}, "input.0.type"),
        ({"role": "tool"}, None),
        ({"role": "nobody", "content": "x"}, "input.0.role"),
        ({}, "input.0.role"),
    ],
)
def test_what_is_no_item_is_refused_by_name(item: dict[str, Any], param: str | None) -> None:
    if param is None:
        assert messages_of(request([item]))[0].role == "tool"
        return
    with pytest.raises(ApiError) as caught:
        messages_of(request([item]))
    assert (caught.value.status_code, caught.value.param) == (400, param)


def test_tools_are_in_the_form_of_chats() -> None:
    tool = {"type": "function", "name": "f", "parameters": {"a": 1}, "strict": True, "x": 1}
    choice = {"type": "function", "name": "f"}
    found = offer_of(request("a", tools=[tool], tool_choice=choice, parallel_tool_calls=False))
    function = {"name": "f", "parameters": {"a": 1}, "strict": True}
    assert found == Offer(
        [{"type": "function", "function": function}],
        {"type": "function", "function": {"name": "f"}},
        one_call=True,
    )
    assert offer_of(request("a")) == Offer([], None)
    for wrong in ({"tools": [{"type": "web_search"}]}, {"tool_choice": {"type": "mcp"}}):
        with pytest.raises(ApiError, match="not supported"):
            offer_of(request("a", **wrong))

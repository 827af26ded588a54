"""``/v1/responses`` over a fake engine."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from graphopt.errors import MachineError
from graphopt.runtime.server.protocol.responses import ResponseObject

from ..fake_engine import TOKENIZER, FakeEngine, post

PATH = "/v1/responses"


def _events(found: httpx.Response) -> list[dict[str, Any]]:
    """The typed events of a stream, whose names and numbers have to be right."""
    assert found.headers["content-type"].startswith("text/event-stream")
    blocks = found.text.split("\n\n")
    assert blocks.pop() == ""
    read = []
    for number, block in enumerate(blocks):
        name, data = block.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        assert event["sequence_number"] == number
        read.append(event)
    return read


def test_an_input_is_answered() -> None:
    engine = FakeEngine(" hello world")
    found = post(PATH, {"model": "demo", "input": "hey", "instructions": "be kind"}, engine)
    assert found.status_code == 200, found.text
    answer = ResponseObject.model_validate_json(found.content)
    assert answer.status == "completed"
    assert answer.output[0].content[0].text == " hello world"
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.input_tokens + answer.usage.output_tokens
    talk = [{"role": "system", "content": "be kind"}, {"role": "user", "content": "hey"}]
    expected = TOKENIZER.encode(TOKENIZER.render_chat(talk), add_special_tokens=False)
    assert engine.asked[0].prompt_ids == expected
    assert engine.asked[0].params["max_tokens"] is None


def test_items_are_messages() -> None:
    engine = FakeEngine()
    items = [
        {"role": "user", "content": "a"},
        {
            "type": "message",
            "role": "assistant",
            "content": [{"type": "output_text", "text": "b", "annotations": []}],
        },
        {"role": "user", "content": [{"type": "input_text", "text": "c"}]},
    ]
    assert post(PATH, {"input": items}, engine).status_code == 200
    text = TOKENIZER.decode(engine.asked[0].prompt_ids, skip_special_tokens=False)
    assert "a<|end|>" in text
    assert "b<|end|>" in text
    assert "c<|end|>" in text


def test_too_few_tokens_leave_it_incomplete() -> None:
    found = post(PATH, {"input": "a", "max_output_tokens": 2}).json()
    assert found["status"] == "incomplete"
    assert found["incomplete_details"] == {"reason": "max_output_tokens"}
    assert found["max_output_tokens"] == 2


def test_a_stream_has_typed_events() -> None:
    read = _events(post(PATH, {"input": "hey", "stream": True}))
    kinds = [one["type"] for one in read]
    deltas = kinds.count("response.output_text.delta")
    assert kinds == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        *["response.output_text.delta"] * deltas,
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    text = "".join(one["delta"] for one in read if "delta" in one)
    assert text == " hello world" == read[-4]["text"]
    whole = ResponseObject.model_validate(read[-1]["response"])
    assert whole.output[0].content[0].text == text
    assert whole.usage is not None
    items = {one["item_id"] for one in read if "item_id" in one}
    assert items == {whole.output[0].id}


def test_a_stream_that_was_cut_says_so() -> None:
    read = _events(post(PATH, {"input": "hey", "stream": True, "max_output_tokens": 2}))
    assert read[-1]["type"] == "response.incomplete"


def test_a_stream_that_fails_says_so() -> None:
    class Breaks(FakeEngine):
        def submit(self, *given: Any, **named: Any) -> Any:
            answer = super().submit(*given, **named)
            kept = answer.queue.get_nowait()
            while not answer.queue.empty():
                answer.queue.get_nowait()
            answer.ended = None
            answer.queue.put_nowait(kept)
            answer.queue.put_nowait(MachineError("it burns"))
            return answer

    read = _events(post(PATH, {"input": "hey", "stream": True}, Breaks()))
    assert read[-1]["type"] == "response.failed"
    assert read[-1]["response"]["error"]["message"] == "it burns"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [{"type": "web_search"}]}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": "c"}, "conversation"),
        ({"background": True}, "background"),
        ({"include": ["x"]}, "include"),
        ({"prompt": {"id": "x"}}, "prompt"),
        ({"reasoning": {"effort": "high"}}, "reasoning"),
        ({"text": {"format": {"type": "json_schema"}}}, "text.format"),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"input": [{"type": "function_call_output", "output": "x"}]}, "input.0.type"),
        ({"input": [{"role": "king", "content": "x"}]}, "input.0.role"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "messages.0.content"),
    ],
)
def test_what_is_not_done_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    engine = FakeEngine()
    found = post(PATH, {"input": "a", **fields}, engine)
    assert (found.status_code, found.json()["error"]["param"]) == (400, param)
    assert engine.asked == []


def test_what_clients_send_by_default_is_taken() -> None:
    body = {
        "input": "a",
        "store": True,
        "tools": [],
        "tool_choice": "auto",
        "reasoning": {"effort": None},
        "text": {"format": {"type": "text"}},
        "metadata": {},
        "truncation": "disabled",
        "parallel_tool_calls": True,
    }
    found = post(PATH, body)
    assert found.status_code == 200
    assert found.json()["store"] is False
    assert "x-graphopt-warning" not in found.headers


def test_an_answer_is_held_to_a_form() -> None:
    engine = FakeEngine("{}")
    for form in ({"type": "json_object"}, {"type": "text"}, None):
        body = {"input": "hey", "text": None if form is None else {"format": form}}
        assert post(PATH, body, engine).status_code == 200
    kinds = [one.params.get("constraint") for one in engine.asked]
    assert kinds == [{"kind": "json_object", "source": ""}, None, None]
    schema = {"type": "json_schema", "name": "n", "schema": {"type": "integer"}, "strict": True}
    assert post(PATH, {"input": "hey", "text": {"format": schema}}, engine).status_code == 200
    assert engine.asked[-1].params["constraint"]["source"] == '{"type":"integer"}'

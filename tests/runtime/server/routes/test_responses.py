"""``/v1/responses`` over a fake engine."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from graphopt.errors import MachineError
from graphopt.runtime.server.protocol.responses import ResponseObject
from graphopt.runtime.server.response_events import LOGPROBS

from ..fake_engine import TOKENIZER, FakeEngine, post

PATH = "/v1/responses"
TOOL = {"type": "function", "name": "now", "parameters": {"type": "object"}, "strict": False}
CALL = '<tool_call>\n{"name": "now", "arguments": {"zone": "CET"}}\n</tool_call>'
EVENT = TypeAdapter(ResponseStreamEvent)


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
        EVENT.validate_python(event, strict=False)
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
        ({"tools": [{"type": "function", "name": "f"}]}, "tools"),  # the template says nothing
        ({"tool_choice": {"type": "file_search"}}, "tool_choice"),
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
        ({"top_logprobs": 21, "include": [LOGPROBS]}, "top_logprobs"),
        ({"max_tool_calls": 2}, "max_tool_calls"),
        ({"input": [{"type": "function_call_output", "output": "x"}]}, "input.0.call_id"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input.0.type"),
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


def _call(text: str, at_once: int = 1, /, **fields: Any) -> tuple[httpx.Response, FakeEngine]:
    """The answer of a model that writes ``text`` and may call a function."""
    engine = FakeEngine(text)
    engine.at_once = at_once
    body = {"input": "hey", "tools": [TOOL], **fields}
    return post(PATH, body, engine, tool_call_parser="hermes"), engine


@pytest.mark.parametrize("at_once", [1, 7, 1000])
def test_calls_are_items_and_a_stream_adds_up_to_them(at_once: int) -> None:
    text = f"So:\n{CALL}\n{CALL} Then."
    found, engine = _call(text, at_once)
    assert found.status_code == 200, found.text
    whole = Response.model_validate(found.json())
    assert [one.type for one in whole.output] == [
        "message",
        "function_call",
        "function_call",
        "message",
    ]
    said, first, second, then = whole.output
    assert (said.content[0].text, then.content[0].text) == ("So:", "Then.")
    assert (first.name, first.arguments, first.status) == ("now", '{"zone": "CET"}', "completed")
    assert len({one.id for one in whole.output}) == 4
    assert first.call_id != second.call_id
    assert (whole.status, whole.tool_choice, whole.parallel_tool_calls) == (
        "completed",
        "auto",
        True,
    )
    assert whole.tools[0].name == "now"
    assert "constraint" not in engine.asked[0].params

    read = _events(_call(text, at_once, stream=True)[0])
    assert [one["type"] for one in read[:2]] == ["response.created", "response.in_progress"]
    last = Response.model_validate(read[-1]["response"])
    items = [one["item"] for one in read if one["type"] == "response.output_item.done"]
    assert [one.model_dump(exclude={"id", "call_id"}) for one in last.output] == [
        one.model_dump(exclude={"id", "call_id"}) for one in whole.output
    ]
    assert [one.id for one in last.output] == [item["id"] for item in items]
    for index, item in enumerate(items):
        mine = [one for one in read if one.get("output_index") == index]
        assert mine[0]["type"] == "response.output_item.added"
        assert mine[-1]["item"] == item
        deltas = "".join(one["delta"] for one in mine if "delta" in one)
        shown = item["arguments"] if item["type"] == "function_call" else item["content"][0]["text"]
        assert deltas == shown
        assert {one["item_id"] for one in mine if "item_id" in one} == {item["id"]}
    done = next(one for one in read if one["type"] == "response.function_call_arguments.done")
    assert (done["name"], done["arguments"]) == ("now", '{"zone": "CET"}')


def test_arguments_are_streamed_as_they_are_written() -> None:
    read = _events(_call(CALL, stream=True)[0])
    deltas = [one for one in read if one["type"] == "response.function_call_arguments.delta"]
    assert len(deltas) > 3
    assert read[2]["item"]["type"] == "function_call"


def test_an_answer_without_a_call_is_a_message() -> None:
    for fields in ({}, {"tool_choice": "none"}, {"tools": []}):
        found, _ = _call("Hello.", **fields)
        (item,) = found.json()["output"]
        assert item["content"][0]["text"] == "Hello."
        kinds = [one["type"] for one in _events(_call("Hello.", stream=True, **fields)[0])]
        assert kinds.count("response.output_item.added") == 1
    (item,) = _call("")[0].json()["output"]
    assert item["content"][0]["text"] == ""


def test_a_call_that_is_cut_is_incomplete() -> None:
    found, _ = _call(CALL, max_output_tokens=len(TOKENIZER.encode(CALL)) - 14)
    answer = Response.model_validate(found.json())
    assert answer.status == "incomplete"
    assert answer.output[0].status == "incomplete"
    assert '{"zone": "CET"}'.startswith(answer.output[0].arguments)


@pytest.mark.parametrize("choice", ["required", {"type": "function", "name": "now"}])
def test_a_choice_that_demands_a_call_is_a_constraint(choice: Any) -> None:
    found, engine = _call(CALL, tool_choice=choice, parallel_tool_calls=False)
    assert engine.asked[0].params["constraint"]["kind"] == "grammar"
    answer = Response.model_validate(found.json())
    assert answer.parallel_tool_calls is False
    assert found.json()["tool_choice"] == choice


def test_calls_and_their_outputs_are_in_the_prompt() -> None:
    items = [
        {"role": "user", "content": "when?"},
        {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "now",
         "arguments": "{}", "status": "completed"},
        {"type": "function_call", "call_id": "call_2", "name": "now", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "call_1", "output": "noon"},
        {"type": "function_call_output", "call_id": "call_2",
         "output": [{"type": "input_text", "text": "night"}]},
    ]  # fmt: skip
    found, engine = _call("It is noon.", input=items)
    assert found.json()["output"][0]["content"][0]["text"] == "It is noon."
    text = TOKENIZER.decode(engine.asked[0].prompt_ids, skip_special_tokens=False)
    assert "noon" in text
    assert "night" in text


def test_log_probabilities_are_included_if_they_are_asked_for() -> None:
    fields = {"include": [LOGPROBS], "top_logprobs": 2}
    answer = Response.model_validate(post(PATH, {"input": "hey", **fields}).json())
    rows = answer.output[0].content[0].logprobs
    assert answer.usage is not None
    assert len(rows) == answer.usage.output_tokens
    assert all(len(row.top_logprobs) == 2 for row in rows)
    assert answer.top_logprobs == 2
    read = _events(post(PATH, {"input": "hey", "stream": True, **fields}))
    shown = [row for one in read if one["type"] == "response.output_text.delta"
             for row in one["logprobs"]]  # fmt: skip
    done = next(one for one in read if one["type"] == "response.output_text.done")
    assert done["logprobs"][: len(shown)] == shown
    assert len(done["logprobs"]) == len(rows)
    bare = Response.model_validate(post(PATH, {"input": "hey", "include": [LOGPROBS]}).json())
    assert bare.output[0].content[0].logprobs[0].top_logprobs == []


def test_a_form_is_shown_and_excludes_tools() -> None:
    form = {"type": "json_schema", "name": "n", "schema": {"type": "integer"}, "strict": True}
    answer = Response.model_validate(
        post(PATH, {"input": "a", "text": {"format": form}}, FakeEngine("5")).json()
    )
    assert answer.text is not None
    assert answer.text.format.type == "json_schema"
    found, engine = _call("5", text={"format": form})
    assert (found.status_code, found.json()["error"]["param"]) == (400, "text.format")
    assert engine.asked == []

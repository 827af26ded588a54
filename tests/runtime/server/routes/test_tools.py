"""Tools and constraints through the routes, over a fake engine."""

from __future__ import annotations

from typing import Any

import pytest

from graphopt.runtime.server.protocol.chat import ChatChunk, ChatCompletion

from ..fake_engine import FakeEngine, events, post

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
TALK = [{"role": "user", "content": "hey"}]
TOOL = {"type": "function", "function": {"name": "now", "parameters": {"type": "object"}}}
CALL = '<tool_call>\n{"name": "now", "arguments": {"zone": "CET"}}\n</tool_call>'


def ask(
    fields: dict[str, Any], text: str = CALL, path: str = CHAT, at_once: int = 1
) -> tuple[Any, FakeEngine]:
    """The answer to a request whose model writes ``text``."""
    engine = FakeEngine(text)
    engine.at_once = at_once
    head = {"messages": TALK} if path == CHAT else {"prompt": "hey"}
    body = {**head, "max_tokens": 200, **fields}
    return post(path, body, engine, tool_call_parser="hermes"), engine


@pytest.mark.parametrize("at_once", [1, 7, 1000])
def test_calls_of_a_whole_answer_and_of_a_stream_are_the_same(at_once: int) -> None:
    found, engine = ask({"tools": [TOOL]}, f"So:\n{CALL}", at_once=at_once)
    ChatCompletion.model_validate_json(found.content)
    (choice,) = found.json()["choices"]
    message = choice["message"]
    assert choice["finish_reason"] == "tool_calls"
    assert message["content"] == "So:"
    (call,) = message["tool_calls"]
    assert call["function"] == {"name": "now", "arguments": '{"zone": "CET"}'}
    assert "constraint" not in engine.asked[0].params

    fields = {"tools": [TOOL], "stream": True, "n": 2}
    found, _ = ask(fields, f"So:\n{CALL}", at_once=at_once)
    chunks = events(found)
    for one in chunks:
        ChatChunk.model_validate(one)
    for index in range(2):
        choices = [one["choices"][0] for one in chunks if one["choices"][0]["index"] == index]
        content = "".join(one["delta"].get("content") or "" for one in choices)
        assert content == "So:"
        deltas = [call for one in choices for call in one["delta"].get("tool_calls", ())]
        assert {one["index"] for one in deltas} == {0}
        assert len(deltas) > (8 if at_once == 1 else 1)
        assert deltas[0]["function"] == {"name": "now", "arguments": ""}
        assert deltas[0]["id"].startswith("call_")
        arguments = "".join(one["function"]["arguments"] for one in deltas)
        assert arguments == '{"zone": "CET"}'
        reasons = [one["finish_reason"] for one in choices]
        assert reasons[-1] == "tool_calls"
        assert set(reasons[:-1]) == {None}


def test_an_answer_without_a_call_is_as_if_there_were_no_tools() -> None:
    for fields in ({"tools": [TOOL]}, {"tools": [TOOL], "tool_choice": "none"}, {}):
        found, _ = ask(fields, "Hello <b>world</b>")
        (choice,) = found.json()["choices"]
        assert choice["message"]["content"] == "Hello <b>world</b>"
        assert choice["message"]["tool_calls"] is None
        assert choice["finish_reason"] == "stop"


def test_without_tools_what_looks_like_a_call_is_text() -> None:
    found, _ = ask({"tools": [TOOL], "tool_choice": "none"})
    assert found.json()["choices"][0]["message"]["content"] == CALL


def test_a_choice_that_demands_a_call_is_a_constraint() -> None:
    for choice in ("required", {"type": "function", "function": {"name": "now"}}):
        _, engine = ask({"tools": [TOOL], "tool_choice": choice})
        assert engine.asked[0].params["constraint"]["kind"] == "grammar"


def test_log_probabilities_and_token_ids_are_those_of_all_tokens() -> None:
    fields = {"tools": [TOOL], "stream": True, "logprobs": True, "return_token_ids": True}
    found, engine = ask(fields)
    choices = [one["choices"][0] for one in events(found)]
    ids = [token for one in choices for token in one.get("token_ids") or ()]
    rows = [row for one in choices if one["logprobs"] for row in one["logprobs"]["content"]]
    assert len(ids) == len(rows) == engine.asked[0].given


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"guided_choice": ["a"]}, "guided_choice"),
        ({"structured_outputs": {"regex": "a"}}, "structured_outputs"),
        ({"tool_choice": {"type": "function", "function": {"name": "x"}}}, "tool_choice"),
    ],
    ids=str,
)
def test_contradictions_are_refused_by_name(fields: dict[str, Any], param: str) -> None:
    found, engine = ask({"tools": [TOOL], **fields})
    assert found.status_code == 400
    assert found.json()["error"]["param"] == param
    assert engine.asked == []


def test_a_model_whose_calls_are_not_understood_takes_no_tools() -> None:
    found = post(CHAT, {"messages": TALK, "tools": [TOOL]})
    assert found.status_code == 400
    assert "--tool-call-parser" in found.json()["error"]["message"]


@pytest.mark.parametrize("path", [CHAT, TEXT])
def test_constraints_reach_the_engine_and_bad_ones_do_not(path: str) -> None:
    found, engine = ask({"guided_regex": "a+"}, "aaa", path)
    assert found.status_code == 200
    assert engine.asked[0].params["constraint"] == {"kind": "regex", "source": "a+"}
    for stream in (False, True):
        found, engine = ask({"guided_regex": "(", "stream": stream}, "aaa", path)
        assert found.status_code == 400
        assert "regex" in found.json()["error"]["message"]
        assert engine.asked == []


def test_calls_and_their_results_are_in_the_prompt() -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "now", "arguments": "{}"}}
    talk = [
        *TALK,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "noon"},
    ]
    found, _ = ask({"messages": talk, "tools": [TOOL]}, "It is noon.")
    assert found.json()["choices"][0]["message"]["content"] == "It is noon."

"""``/v1/chat/completions`` over a fake engine."""

from __future__ import annotations

from typing import Any

import pytest

from graphopt.runtime.server.protocol.chat import ChatChunk, ChatCompletion
from graphopt.runtime.words import Words

from ..fake_engine import TOKENIZER, FakeEngine, events, post

PATH = "/v1/chat/completions"
TALK = [{"role": "user", "content": "hey"}]


def _ok(fields: dict[str, Any], engine: FakeEngine | None = None) -> dict[str, Any]:
    found = post(PATH, {"messages": TALK, **fields}, engine)
    assert found.status_code == 200, found.text
    ChatCompletion.model_validate_json(found.content)
    answer: dict[str, Any] = found.json()
    return answer


def test_a_conversation_is_answered() -> None:
    engine = FakeEngine(" hello world")
    found = _ok({}, engine)
    (choice,) = found["choices"]
    assert choice["message"]["role"] == "assistant"
    assert choice["message"]["content"] == " hello world"
    assert choice["finish_reason"] == "stop"
    prompt = TOKENIZER.encode(TOKENIZER.render_chat(TALK), add_special_tokens=False)
    assert engine.asked[0].prompt_ids == prompt
    assert found["usage"]["prompt_tokens"] == len(prompt)


def test_an_answer_may_fill_the_context_unless_it_is_limited() -> None:
    engine = FakeEngine()
    _ok({}, engine)
    _ok({"max_tokens": 5}, engine)
    _ok({"max_completion_tokens": 6, "max_tokens": 5}, engine)
    asked = [one.params["max_tokens"] for one in engine.asked]
    assert asked == [None, 5, 6]


def test_the_models_own_limit_holds_if_it_has_one() -> None:
    engine = FakeEngine()
    words = Words(TOKENIZER, {"max_new_tokens": 7})
    assert post(PATH, {"messages": TALK}, engine, words=words).status_code == 200
    assert engine.asked[0].params["max_tokens"] == 7


def test_roles_and_parts() -> None:
    engine = FakeEngine()
    talk = [
        {"role": "system", "content": "s"},
        {"role": "developer", "content": "d"},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": None, "tool_calls": []},
        {"role": "tool", "content": "3", "tool_call_id": "1"},
    ]
    _ok({"messages": talk}, engine)
    text = TOKENIZER.decode(engine.asked[0].prompt_ids, skip_special_tokens=False)
    assert "<|user|>\na\nb<|end|>" in text
    assert "tool\n3" in text.replace("<|tool|>", "tool")


def test_the_final_message_goes_on() -> None:
    engine = FakeEngine()
    talk = [*TALK, {"role": "assistant", "content": "I am"}]
    _ok({"messages": talk, "continue_final_message": True}, engine)
    text = TOKENIZER.decode(engine.asked[0].prompt_ids, skip_special_tokens=False)
    assert text.endswith("<|assistant|>\nI am")
    _ok({"messages": talk, "add_generation_prompt": False}, engine)
    text = TOKENIZER.decode(engine.asked[1].prompt_ids, skip_special_tokens=False)
    assert text.endswith("I am<|end|>\n")


def test_log_probabilities_have_bytes() -> None:
    (choice,) = _ok({"logprobs": True, "top_logprobs": 2})["choices"]
    rows = choice["logprobs"]["content"]
    assert b"".join(bytes(row["bytes"]) for row in rows[:-1]) == b" hello world"
    assert [len(row["top_logprobs"]) for row in rows] == [2] * len(rows)
    (choice,) = _ok({"logprobs": True})["choices"]
    assert choice["logprobs"]["content"][0]["top_logprobs"] == []
    assert _ok({})["choices"][0]["logprobs"] is None


def test_samples_ids_and_prompt_logprobs() -> None:
    found = _ok({"n": 2, "return_token_ids": True, "prompt_logprobs": 1, "stop": " wor"})
    assert [one["index"] for one in found["choices"]] == [0, 1]
    assert found["choices"][1]["message"]["content"] == " hello"
    assert found["choices"][1]["stop_reason"] == " wor"
    assert found["prompt_logprobs"][0] is None
    assert len(found["prompt_logprobs"]) == len(found["prompt_token_ids"])


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"chat_template": "{{ 1 }}"}, "chat_template"),
        ({"functions": [{}]}, "functions"),
        ({"function_call": "auto"}, "function_call"),
        ({"audio": {}}, "audio"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"web_search_options": {}}, "web_search_options"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"prompt_logprobs": 1, "stream": True}, "prompt_logprobs"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
            "messages.0.content",
        ),
        ({"chat_template_kwargs": {"messages": []}}, "chat_template_kwargs"),
        ({"messages": [{"role": "king", "content": "x"}]}, "messages.0.role"),
        ({"messages": []}, "messages"),
    ],
)
def test_what_is_not_done_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    engine = FakeEngine()
    found = post(PATH, {"messages": TALK, **fields}, engine)
    assert (found.status_code, found.json()["error"]["param"]) == (400, param)
    assert engine.asked == []


def test_a_conversation_beyond_the_context_is_refused() -> None:
    found = post(PATH, {"messages": [{"role": "user", "content": "a " * 300}]})
    assert found.json()["error"]["code"] == "context_length_exceeded"


def test_a_model_without_a_template_cannot_chat() -> None:
    found = post(PATH, {"messages": TALK}, words=Words())
    assert found.status_code == 400
    assert "tokenizer" in found.json()["error"]["message"]


@pytest.mark.parametrize("at_once", [1, 4])
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"n": 2},
        {"stop": " wor"},
        {"logprobs": True, "top_logprobs": 1},
        {"return_token_ids": True},
        {"stream_options": {"include_usage": True}},
    ],
)
def test_a_stream_adds_up_to_the_whole(fields: dict[str, Any], at_once: int) -> None:
    engine = FakeEngine()
    engine.at_once = at_once
    whole = _ok({name: value for name, value in fields.items() if name != "stream_options"})
    chunks = events(post(PATH, {"messages": TALK, **fields, "stream": True}, engine))
    for chunk in chunks:
        ChatChunk.model_validate(chunk)
    count = len(whole["choices"])
    for index in range(count):
        own = [one for chunk in chunks for one in chunk["choices"] if one["index"] == index]
        assert own[0]["delta"] == {"role": "assistant", "content": ""}
        choice = whole["choices"][index]
        text = "".join(one["delta"].get("content", "") for one in own)
        assert text == choice["message"]["content"]
        assert [one["finish_reason"] for one in own][-1] == choice["finish_reason"]
        assert all(one["finish_reason"] is None for one in own[:-1])
        rows = [row for one in own if one["logprobs"] for row in one["logprobs"]["content"]]
        assert rows == ((choice["logprobs"] or {}).get("content") or [])
        ids = [token for one in own for token in one.get("token_ids") or ()]
        assert ids == (choice["token_ids"] or [])
    if "stream_options" in fields:
        assert chunks[-1]["choices"] == []
        assert chunks[-1]["usage"] == whole["usage"]


def test_an_answer_of_no_text_is_no_chunk_but_the_role_and_the_end() -> None:
    chunks = events(post(PATH, {"messages": TALK, "stream": True}, FakeEngine("")))
    assert [one["choices"][0]["delta"] for one in chunks] == [
        {"role": "assistant", "content": ""},
        {},
    ]

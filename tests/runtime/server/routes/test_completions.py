"""``/v1/completions`` over a fake engine: every field, whole and streamed."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from graphopt.errors import EngineGoneError, MachineError
from graphopt.runtime.server.protocol.completions import Completion
from graphopt.runtime.server.settings import Limits

from ..fake_engine import (
    TOKENIZER,
    FakeEngine,
    app_over,
    client_of,
    events,
    ids_of,
    post,
)

PATH = "/v1/completions"


def _ok(body: dict[str, Any], engine: FakeEngine | None = None) -> dict[str, Any]:
    found = post(PATH, body, engine)
    assert found.status_code == 200, found.text
    Completion.model_validate_json(found.content)
    answer: dict[str, Any] = found.json()
    return answer


def _refused(body: dict[str, Any], param: str | None, **settings: Any) -> str:
    engine = FakeEngine()
    found = post(PATH, body, engine, **settings)
    assert found.status_code == 400, found.text
    assert found.json()["error"]["param"] == param
    assert engine.asked == []
    message: str = found.json()["error"]["message"]
    return message


def test_text_is_continued() -> None:
    engine = FakeEngine(" hello world")
    found = _ok({"model": "demo", "prompt": "Hi", "max_tokens": 32}, engine)
    assert found["model"] == "demo"
    assert found["id"].startswith("cmpl-")
    (choice,) = found["choices"]
    assert (choice["text"], choice["finish_reason"]) == (" hello world", "stop")
    count = len(ids_of(" hello world")) + 1
    assert found["usage"]["completion_tokens"] == count
    assert found["usage"]["prompt_tokens"] == len(TOKENIZER.encode("Hi"))
    (asked,) = engine.asked
    assert asked.prompt_ids == TOKENIZER.encode("Hi")
    assert asked.params["max_tokens"] == 32


def test_the_default_is_sixteen_tokens_and_the_models_own_sampling() -> None:
    engine = FakeEngine(" word" * 40)
    (choice,) = _ok({"prompt": "Hi"}, engine)["choices"]
    assert choice["finish_reason"] == "length"
    assert engine.asked[0].params["temperature"] == 0.0
    assert "max_tokens" not in engine.asked[0].params


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ([5, 6], [[5, 6]]),
        ([[5, 6], [7]], [[5, 6], [7]]),
        (["a", "b"], [TOKENIZER.encode("a"), TOKENIZER.encode("b")]),
        (["a", [7]], [TOKENIZER.encode("a"), [7]]),
    ],
)
def test_prompts_come_in_all_forms(prompt: Any, expected: list[list[int]]) -> None:
    engine = FakeEngine()
    found = _ok({"prompt": prompt}, engine)
    assert [one.prompt_ids for one in engine.asked] == expected
    assert [one["index"] for one in found["choices"]] == list(range(len(expected)))
    assert found["usage"]["prompt_tokens"] == sum(map(len, expected))


def test_samples_of_several_prompts_are_numbered_in_order() -> None:
    engine = FakeEngine(text=None)

    async def run() -> httpx.Response:
        async with client_of(app_over(engine)) as client:
            body = {"prompt": ["a", "b"], "n": 2, "echo": True}
            waiting = asyncio.ensure_future(client.post(PATH, json=body))
            while len(engine.asked) < 2:
                await asyncio.sleep(0)
            engine.asked[1].play(ids_of(" second"))
            await asyncio.sleep(0.01)
            engine.asked[0].play(ids_of(" first"))
            return await waiting

    choices = asyncio.run(run()).json()["choices"]
    assert [one["text"] for one in choices] == ["a first", "a first", "b second", "b second"]
    assert [one["index"] for one in choices] == [0, 1, 2, 3]


def test_stop_strings_end_samples_here_and_the_engine_stops() -> None:
    engine = FakeEngine(" one two three four")
    found = _ok({"prompt": "a", "stop": [" three"], "max_tokens": 99}, engine)
    (choice,) = found["choices"]
    assert (choice["text"], choice["finish_reason"], choice["stop_reason"]) == (
        " one two",
        "stop",
        " three",
    )
    taken = found["usage"]["completion_tokens"]
    drawn = ids_of(" one two three four")
    assert TOKENIZER.decode(drawn[:taken]).startswith(" one two three")
    assert taken < len(drawn)
    assert "stop" not in engine.asked[0].params


def test_the_engine_is_told_to_stop_once_every_sample_has_ended() -> None:
    engine = FakeEngine(text=None)

    async def run() -> httpx.Response:
        async with client_of(app_over(engine)) as client:
            body = {"prompt": ["a", "b"], "stop": "two", "max_tokens": 99}
            waiting = asyncio.ensure_future(client.post(PATH, json=body))
            while len(engine.asked) < 2:
                await asyncio.sleep(0)
            for one in engine.asked:
                one.play(ids_of("one two three"))
                one.ended = None  # the engine goes on
            return await waiting

    assert [one["text"] for one in asyncio.run(run()).json()["choices"]] == ["one ", "one "]
    assert all(one.aborted for one in engine.asked)


def test_scoring_a_prompt() -> None:
    engine = FakeEngine("")
    ids = TOKENIZER.encode("one two")
    body = {"prompt": ids, "max_tokens": 0, "echo": True, "logprobs": 1}
    (choice,) = _ok(body, engine)["choices"]
    assert choice["text"] == "one two"
    rows = choice["logprobs"]
    assert rows["token_logprobs"] == [None, *[-0.25] * (len(ids) - 1)]
    assert rows["tokens"] == ["<|endoftext|>", *(TOKENIZER.decode([one]) for one in ids[1:])]
    assert len(rows["top_logprobs"]) == len(rows["text_offset"]) == len(ids)
    assert rows["text_offset"][:2] == [0, 0]
    sent = engine.asked[0].params
    assert (sent["max_tokens"], sent["prompt_logprobs"], sent["logprobs"]) == (0, 1, 1)


def test_echo_without_tokens_and_without_logprobs() -> None:
    (choice,) = _ok({"prompt": "one two", "max_tokens": 0, "echo": True})["choices"]
    assert (choice["text"], choice["logprobs"]) == ("one two", None)


def test_log_probabilities_of_prompt_and_answer() -> None:
    body = {"prompt": "a b", "echo": True, "logprobs": 2, "prompt_logprobs": 1}
    (choice,) = _ok(body)["choices"]
    rows = choice["logprobs"]
    assert "".join(rows["tokens"][1:-1]) == choice["text"] == "a b hello world"
    assert rows["text_offset"][-1] == len(choice["text"])
    assert choice["prompt_logprobs"][0] is None
    assert len(choice["prompt_logprobs"]) == len(TOKENIZER.encode("a b"))
    as_ids = _ok({**body, "return_tokens_as_token_ids": True})["choices"][0]["logprobs"]
    assert all(one.startswith("token_id:") for one in as_ids["tokens"])


def test_the_best_of_several() -> None:
    engine = FakeEngine(text=None)

    async def run() -> httpx.Response:
        async with client_of(app_over(engine)) as client:
            body = {"prompt": "a", "n": 1, "best_of": 3, "max_tokens": 9}
            waiting = asyncio.ensure_future(client.post(PATH, json=body))
            while not engine.asked:
                await asyncio.sleep(0)
            asked = engine.asked[0]
            from graphopt.runtime.outputs import TokenLogprobs
            from graphopt.runtime.server.wire import Part

            for index, logprob in enumerate((-3.0, -1.0, -2.0)):
                token = ids_of("xyz"[index])[0]
                report = (TokenLogprobs(token, logprob, 1),)
                asked.queue.put_nowait([Part(asked.id, index, (token,), report, "length")])
            asked.end()
            return await waiting

    found = asyncio.run(run()).json()
    assert [(one["text"], one["index"]) for one in found["choices"]] == [("y", 0)]
    assert found["choices"][0]["logprobs"] is None
    assert found["usage"]["completion_tokens"] == 3
    assert engine.asked[0].params["n"] == 3


def test_ids_are_given_back_on_request() -> None:
    (choice,) = _ok({"prompt": [5, 6], "return_token_ids": True})["choices"]
    assert choice["prompt_token_ids"] == [5, 6]
    assert choice["token_ids"] == [*ids_of(" hello world"), 0]


def test_what_the_engine_has_to_know_is_passed_on() -> None:
    engine = FakeEngine()
    _ok(
        {
            "prompt": "a",
            "logit_bias": {"5": -100},
            "seed": -1,
            "ignore_eos": True,
            "min_tokens": 2,
            "priority": -3,
            "cache_salt": "x",
            "stop_token_ids": [9],
            "add_special_tokens": False,
        },
        engine,
    )
    (asked,) = engine.asked
    assert asked.params["logit_bias"] == {5: -100.0}
    assert asked.params["seed"] == 2**64 - 1
    assert asked.params["ignore_eos"] is True
    assert asked.params["min_tokens"] == 2
    assert asked.params["stop_token_ids"] == (9,)
    assert asked.priority == -3
    assert len(asked.cache_salt) == 32
    assert asked.prompt_ids == ids_of("a")


def test_tokens_from_the_prefix_cache_are_told() -> None:
    engine = FakeEngine(text=None)

    async def run() -> httpx.Response:
        async with client_of(app_over(engine)) as client:
            waiting = asyncio.ensure_future(client.post(PATH, json={"prompt": [5] * 9}))
            while not engine.asked:
                await asyncio.sleep(0)
            engine.asked[0].end(cached=8)
            return await waiting

    usage = asyncio.run(run()).json()["usage"]
    assert usage["prompt_tokens_details"] == {"cached_tokens": 8}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"suffix": "x"}, "suffix"),
        ({"n": 3, "best_of": 2}, "best_of"),
        ({"best_of": 2, "stream": True}, "best_of"),
        ({"prompt_logprobs": 1, "stream": True}, "prompt_logprobs"),
        ({"echo": True, "logprobs": 1, "stream": True}, "echo"),
        ({"logprobs": 21}, "logprobs"),
        ({"n": 129}, "n"),
        ({"best_of": 129}, "best_of"),
        ({"max_tokens": 0}, None),
        ({"max_tokens": 3, "min_tokens": 4}, None),
        ({"stop": ""}, None),
        ({"prompt": []}, "prompt"),
        ({"prompt": [[]]}, None),
        ({"prompt": [10**6]}, None),
        ({"prompt": [5] * 257}, None),
        ({"prompt": ["a"] * 257}, "prompt"),
    ],
)
def test_what_makes_no_sense_is_refused_before_work(fields: dict[str, Any], param: str) -> None:
    _refused({"prompt": "a", **fields}, param)


def test_an_empty_suffix_is_none() -> None:
    assert _ok({"prompt": "a", "suffix": ""})


def test_the_context_is_named() -> None:
    found = post(PATH, {"prompt": [5] * 257})
    assert found.json()["error"]["code"] == "context_length_exceeded"
    assert "256" in found.json()["error"]["message"]


def test_another_model_is_not_there() -> None:
    found = post(PATH, {"prompt": "a", "model": "gpt-9"})
    assert (found.status_code, found.json()["error"]["code"]) == (404, "model_not_found")


def test_a_model_that_loads_is_waited_for() -> None:
    engine = FakeEngine()
    engine.model = None
    found = post(PATH, {"prompt": "a"}, engine)
    assert found.status_code == 503
    assert int(found.headers["retry-after"]) >= 1


def test_unknown_fields_are_named_in_a_header_and_the_log(caplog: Any) -> None:
    found = post(PATH, {"prompt": "a", "tempreature": 1, "x\n\u00e9": 2, "user": "u"})
    assert found.status_code == 200
    assert found.headers["x-graphopt-warning"] == (
        "unknown fields change nothing: tempreature, x ?"
    )
    assert len([one for one in caplog.records if "unknown fields" in one.message]) == 1
    assert "x-graphopt-warning" not in post(PATH, {"prompt": "a"}).headers
    many = post(PATH, {"prompt": "a", **{"f" * 1000 + str(one): 1 for one in range(500)}})
    assert len(many.headers["x-graphopt-warning"]) < 700


# ---- streams


def _stream(body: dict[str, Any], engine: FakeEngine | None = None) -> list[Any]:
    found = post(PATH, {**body, "stream": True}, engine)
    assert found.status_code == 200, found.text
    assert found.headers["content-type"].startswith("text/event-stream")
    chunks = events(found)
    for chunk in chunks:
        if "error" not in chunk:
            Completion.model_validate(chunk)
    return chunks


@pytest.mark.parametrize("at_once", [1, 3])
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"stop": " wor"},
        {"logprobs": 2},
        {"echo": True},
        {"n": 3},
        {"prompt": ["a", "b"], "n": 2, "echo": True},
        {"return_token_ids": True},
        {"max_tokens": 2},
        {"stream_options": {"include_usage": True, "continuous_usage_stats": True}},
    ],
)
def test_a_stream_adds_up_to_the_whole(fields: dict[str, Any], at_once: int) -> None:
    body = {"prompt": "a", **fields}
    engine = FakeEngine()
    engine.at_once = at_once
    whole = _ok({name: value for name, value in body.items() if name != "stream_options"})
    texts: dict[int, str] = {}
    ends: dict[int, Any] = {}
    logprobs: dict[int, dict[str, list[Any]]] = {}
    tokens: dict[int, list[int]] = {}
    for chunk in _stream(body, engine):
        for choice in chunk["choices"]:
            index = choice["index"]
            assert index not in ends
            texts[index] = texts.get(index, "") + choice["text"]
            tokens.setdefault(index, []).extend(choice.get("token_ids") or ())
            for name, rows in (choice["logprobs"] or {}).items():
                logprobs.setdefault(index, {}).setdefault(name, []).extend(rows)
            if choice["finish_reason"] is not None:
                ends[index] = (choice["finish_reason"], choice["stop_reason"])
    for choice in whole["choices"]:
        index = choice["index"]
        assert texts[index] == choice["text"]
        assert ends[index] == (choice["finish_reason"], choice["stop_reason"])
        assert logprobs.get(index) == choice["logprobs"]
        assert tokens[index] == (choice["token_ids"] or [])
    assert len(texts) == len(whole["choices"])


def test_usage_comes_last_and_only_on_request() -> None:
    plain = _stream({"prompt": "a"})
    assert all("usage" not in chunk for chunk in plain)
    asked = _stream({"prompt": "a", "stream_options": {"include_usage": True}})
    assert all(chunk["usage"] is None for chunk in asked[:-1])
    assert asked[-1]["choices"] == []
    assert asked[-1]["usage"] == _ok({"prompt": "a"})["usage"]
    options = {"include_usage": True, "continuous_usage_stats": True}
    each = _stream({"prompt": "a", "stream_options": options})
    counts = [chunk["usage"]["completion_tokens"] for chunk in each]
    assert counts[0] == 1
    assert counts == sorted(counts)


def test_an_error_before_the_first_token_has_a_status() -> None:
    engine = FakeEngine()
    engine.error = EngineGoneError("it died")
    assert post(PATH, {"prompt": "a", "stream": True}, engine).status_code == 503


def test_an_error_after_it_is_an_event() -> None:
    engine = FakeEngine(text=None)

    async def run() -> httpx.Response:
        async with client_of(app_over(engine)) as client:
            waiting = asyncio.ensure_future(
                client.post(PATH, json={"prompt": "a", "stream": True, "max_tokens": 99})
            )
            while not engine.asked:
                await asyncio.sleep(0)
            asked = engine.asked[0]
            asked.play([*ids_of(" hello")])
            parts = await asked.queue.get()
            while not asked.queue.empty():
                asked.queue.get_nowait()
            asked.ended = None
            asked.queue.put_nowait(parts)
            asked.queue.put_nowait(MachineError("it burns"))
            return await waiting

    chunks = events(asyncio.run(run()))
    assert chunks[0]["choices"][0]["text"]
    assert chunks[-1]["error"]["message"] == "it burns"
    assert engine.asked[0].aborted


def test_limits_hold_for_prompts() -> None:
    _refused({"prompt": ["a", "b"]}, "prompt", limits=Limits(max_prompts=1))

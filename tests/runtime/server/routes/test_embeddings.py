"""``/v1/embeddings`` over a fake engine."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

import httpx
import numpy as np
import pytest

from graphopt.errors import MachineError
from graphopt.runtime.server.protocol.embeddings import EmbeddingList
from graphopt.runtime.server.settings import Limits

from ..fake_engine import (
    EMBEDDING,
    OPENED,
    TOKENIZER,
    FakeEngine,
    app_over,
    client_of,
    get,
    post,
    vector,
)

PATH = "/v1/embeddings"


def embed(given: Any, engine: FakeEngine | None = None, **more: Any) -> httpx.Response:
    """One request to a model that embeds."""
    limits = more.pop("limits", None)
    return post(PATH, {"input": given, **more}, engine, embedding=EMBEDDING, limits=limits)


def rows(found: httpx.Response) -> list[list[float]]:
    """The vectors of an answer, which has to be one."""
    assert found.status_code == 200, found.text
    assert found.headers["content-type"] == "application/json"
    answer = EmbeddingList.model_validate_json(found.content)
    assert [one.index for one in answer.data] == list(range(len(answer.data)))
    return [one.embedding for one in answer.data]  # type: ignore[misc]


@pytest.mark.parametrize(
    "given",
    ["hello you", ["hello you"], TOKENIZER.encode("hello you"), [TOKENIZER.encode("hello you")]],
    ids=["text", "texts", "tokens", "lists of tokens"],
)
def test_all_forms_of_input_are_the_same(given: Any) -> None:
    engine, ids = FakeEngine(), TOKENIZER.encode("hello you")
    found = embed(given, engine, model="demo", user="somebody", priority=2)
    np.testing.assert_array_equal(np.float32(rows(found)), [vector(ids)])
    answer = found.json()
    assert answer["model"] == "demo"
    assert answer["usage"] == {"prompt_tokens": len(ids), "total_tokens": len(ids)}
    assert (engine.asked[0].prompt_ids, engine.asked[0].priority) == (ids, 2)
    assert "x-graphopt-warning" not in found.headers


def test_many_texts_are_answered_in_order_one_request_each() -> None:
    engine = FakeEngine()
    texts = [f"text {one}" for one in range(200)]
    found = rows(embed([*texts, [5, 6]], engine))
    expected = [vector(TOKENIZER.encode(one)) for one in texts]
    np.testing.assert_array_equal(np.float32(found), [*expected, vector([5, 6])])
    assert len(engine.asked) == 201


def test_special_tokens_can_be_left_out() -> None:
    engine = FakeEngine()
    rows(embed("hello you", engine, add_special_tokens=False))
    assert engine.asked[0].prompt_ids == TOKENIZER.encode("hello you", add_special_tokens=False)


def test_base64_holds_the_same_bits() -> None:
    (found,) = rows(embed("hello you", encoding_format="base64"))
    expected = vector(TOKENIZER.encode("hello you"))
    assert np.frombuffer(base64.b64decode(found), "<f4").tolist() == expected.tolist()


@pytest.mark.parametrize("form", ["float", "base64"])
def test_fewer_dimensions_have_length_one_again(form: str) -> None:
    (found,) = rows(embed("hello you", dimensions=3, encoding_format=form))
    read = np.frombuffer(base64.b64decode(found), "<f4") if form == "base64" else np.float32(found)
    expected = vector(TOKENIZER.encode("hello you"))[:3].astype(np.float64)
    np.testing.assert_allclose(read, expected / np.linalg.norm(expected), rtol=1e-6)
    assert rows(embed("a", dimensions=8)) == rows(embed("a"))


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": []}, "input"),
        ({"input": [[]]}, None),
        ({"input": None}, "input"),
        ({"input": {"a": 1}}, "input"),
        ({"input": [1.5]}, "input"),
        ({"input": ["a", None]}, "input"),
        ({"input": [10**9]}, None),
        ({"input": ["a"] * 2049}, "input"),
        ({"input": ["a"] * 20_000}, "input"),
        ({"input": [5] * (OPENED.max_model_len + 1)}, None),
        ({"input": "x " * OPENED.max_model_len}, None),
        ({"dimensions": 0}, "dimensions"),
        ({"dimensions": 9}, "dimensions"),
        ({"dimensions": "3"}, "dimensions"),
        ({"encoding_format": "int8"}, "encoding_format"),
        ({"user": 5}, "user"),
    ],
    ids=lambda one: str(one)[:40],
)
def test_what_makes_no_sense_is_refused_before_work_is_queued(
    fields: dict[str, Any], param: str | None
) -> None:
    engine = FakeEngine()
    found = post(PATH, {"input": "a", **fields}, engine, embedding=EMBEDDING)
    assert (found.status_code, found.json()["error"]["param"]) == (400, param)
    assert engine.asked == []


def test_limits_are_the_operators() -> None:
    engine = FakeEngine()
    found = embed(["a", "b", "c"], engine, limits=Limits(max_inputs=2))
    assert found.json()["error"]["code"] == "over_limit"
    found = embed([[5] * 9] * 3, engine, limits=Limits(max_input_tokens=26))
    assert found.json()["error"]["code"] == "over_limit"
    found = embed(["a", "b", "c"], engine, limits=Limits(max_queued=2))
    assert (found.status_code, found.headers["retry-after"]) == (429, "1")
    assert engine.asked == []
    assert embed(["a"], engine, limits=Limits(max_inputs=1, max_queued=1)).status_code == 200


def test_fields_that_are_not_known_are_named() -> None:
    assert "truncate" in embed("a", truncate=True).headers["x-graphopt-warning"]


def test_what_fails_has_its_status() -> None:
    engine = FakeEngine()
    engine.error = MachineError("it burns")
    assert embed("a", engine).status_code == 500
    engine.model = None
    assert embed("a", engine).status_code == 503
    assert embed("a", model="other").status_code == 404


def test_a_client_that_leaves_takes_all_its_texts_along() -> None:
    engine = FakeEngine(None)

    async def run() -> None:
        app = app_over(engine, embedding=EMBEDDING)
        gone = asyncio.Event()
        body = b'{"input": ["a", "b", "c"]}'
        messages = [{"type": "http.request", "body": body}]
        sent: list[Any] = []

        async def receive() -> Any:
            if messages:
                return messages.pop()
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {
            "type": "http", "method": "POST", "path": PATH, "query_string": b"",
            "headers": [(b"content-type", b"application/json"), (b"host", b"localhost")],
            "http_version": "1.1", "scheme": "http", "raw_path": PATH.encode(), "root_path": "",
        }  # fmt: skip
        going = asyncio.ensure_future(app(scope, receive, send))
        while len(engine.asked) < 3:
            await asyncio.sleep(0)
        gone.set()
        await going
        assert [one.aborted for one in engine.asked] == [True] * 3
        assert app.state.admission.queued == 0

    asyncio.run(run())


def test_a_model_that_generates_says_so() -> None:
    engine = FakeEngine()
    found = post(PATH, {"input": "a", "model": "demo"}, engine)
    assert found.status_code == 400
    error = found.json()["error"]
    assert error["code"] == "model_generates"
    assert "--task embed" in error["message"]
    assert engine.asked == []
    assert post(PATH, {}).json()["error"]["param"] == "input"
    assert post(PATH, {"input": "a", "model": "x"}).status_code == 404


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", {"prompt": "a"}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}]}),
        ("/v1/responses", {"input": "a"}),
    ],
)
def test_a_model_that_embeds_writes_nothing(path: str, body: dict[str, Any]) -> None:
    engine = FakeEngine()
    error = post(path, body, engine, embedding=EMBEDDING).json()["error"]
    assert error["code"] == "model_embeds"
    assert PATH in error["message"]
    assert engine.asked == []


def test_the_other_routes_serve_a_model_that_embeds() -> None:
    assert get("/v1/models", embedding=EMBEDDING).json()["data"][0]["id"] == "demo"
    found = post("/tokenize", {"prompt": "hello you"}, embedding=EMBEDDING).json()
    assert found["tokens"] == TOKENIZER.encode("hello you")


def test_keys_are_asked_for() -> None:
    async def run() -> None:
        app = app_over(FakeEngine(), embedding=EMBEDDING, api_keys=("secret",))
        async with client_of(app) as client:
            assert (await client.post(PATH, json={"input": "a"})).status_code == 401
            key = {"authorization": "Bearer secret"}
            assert (await client.post(PATH, json={"input": "a"}, headers=key)).status_code == 200

    asyncio.run(run())

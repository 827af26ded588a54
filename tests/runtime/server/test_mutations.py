"""Mutated bodies and headers: an answer or a refusal in the one shape, and never a fault."""

from __future__ import annotations

import asyncio
import functools
import gc
import json
import time
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from .fake_engine import FakeEngine, app_over, client_of

TALK = [
    {"role": "system", "content": "s"},
    {"role": "user", "content": [{"type": "text", "text": "a"}]},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": "{}"}}],
    },
    {"role": "tool", "content": "3", "tool_call_id": "1"},
]
BODIES: dict[str, dict[str, Any]] = {
    "/v1/completions": {
        "model": "demo",
        "prompt": ["a", [5, 6]],
        "max_tokens": 3,
        "n": 2,
        "best_of": 3,
        "temperature": 0.5,
        "logit_bias": {"5": -1.5},
        "stop": ["x", "y"],
        "logprobs": 2,
        "echo": True,
        "seed": 1,
        "stream": False,
        "stream_options": {"include_usage": True},
    },
    "/v1/chat/completions": {
        "messages": TALK,
        "max_completion_tokens": 4,
        "logprobs": True,
        "top_logprobs": 2,
        "stream": True,
        "response_format": {"type": "text"},
        "chat_template_kwargs": {"enable_thinking": False},
        "tools": [],
    },
    "/v1/responses": {
        "input": [{"role": "user", "content": [{"type": "input_text", "text": "a"}]}],
        "max_output_tokens": 3,
        "text": {"format": {"type": "text"}},
    },
    "/tokenize": {"messages": TALK, "return_token_strs": True},
    "/detokenize": {"tokens": [5, 6]},
    "/v1/embeddings": {"input": ["a"]},
}
ANY = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from([2**31, 2**64, -1, 1e308, "\ud800", "1", "", "x" * 3000]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=6,
)


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Every container in a value with each of its keys."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    found = [(value, key) for key, _ in items]
    for _, item in list(items):
        if isinstance(item, dict | list):
            found += _places(item)
    return found


@st.composite
def mutated_bodies(draw: st.DrawFn) -> tuple[str, bytes]:
    """A route, and bytes that are nearly a body of it."""
    path = draw(st.sampled_from(sorted(BODIES)))
    body = json.loads(json.dumps(BODIES[path]))
    for _ in range(draw(st.integers(0, 3))):
        holder, key = draw(st.sampled_from(_places(body)))
        if key not in (holder if isinstance(holder, dict) else range(len(holder))):
            continue
        if draw(st.booleans()):
            holder[key] = draw(ANY)
        else:
            del holder[key]
        if not body:
            break
    if draw(st.integers(0, 9)) == 0:
        body[draw(st.text(max_size=8))] = draw(ANY)
    data = bytearray(json.dumps(body).encode())
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 3]))):
        place = draw(st.integers(0, len(data)))
        data[place : place + draw(st.integers(0, 4))] = draw(st.binary(max_size=4))
    return path, bytes(data)


HEADERS = st.dictionaries(
    st.sampled_from(
        [
            "content-type",
            "content-length",
            "authorization",
            "accept",
            "x-request-id",
            "traceparent",
            "host",
            "expect",
            "transfer-encoding",
            "cookie",
        ]
    ),
    st.text(st.characters(max_codepoint=255, min_codepoint=32), max_size=40)
    | st.sampled_from(
        ["application/json", "9" * 40, "-1", "Bearer k", "text/html; x=" + "y" * 999]
    ),
    max_size=4,
)


@functools.cache
def _app(*keys: str) -> FastAPI:
    return app_over(FakeEngine(" hi"), api_keys=keys)


def _try(requests: list[tuple[str, bytes, dict[str, str]]], *keys: str) -> None:
    async def run() -> None:
        app = _app(*keys)
        async with client_of(app) as client:
            for path, data, headers in requests:
                named = {"content-type": "application/json", **headers}
                raw = [(name, value.encode("latin-1")) for name, value in named.items()]
                found = await client.post(path, content=data, headers=raw)
                _check(found)
        assert app.state.admission.requests == app.state.admission.queued == 0

    asyncio.run(run())


def _check(found: httpx.Response) -> None:
    """An answer, or a refusal that says why."""
    assert found.status_code < 500, found.text
    if found.status_code != 200:
        assert found.status_code in (400, 401, 404, 413, 415, 421), found.status_code
        error = found.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert error["message"]
        assert len(found.content) < 3000
    elif found.headers["content-type"].startswith("text/event-stream"):
        assert b"data: " in found.content


COMMON = {"deadline": None, "suppress_health_check": list(HealthCheck)}


@given(st.lists(mutated_bodies(), min_size=4, max_size=4))
@settings(max_examples=40, derandomize=True, **COMMON)
def test_no_body_is_a_fault(bodies: list[tuple[str, bytes]]) -> None:
    _try([(*body, {}) for body in bodies])


@given(mutated_bodies(), HEADERS, st.booleans())
@settings(max_examples=60, derandomize=True, **COMMON)
def test_no_header_is_a_fault(
    body: tuple[str, bytes], headers: dict[str, str], keyed: bool
) -> None:
    _try([(*body, headers)], *("k",) * keyed)


@pytest.mark.full
@given(st.lists(st.tuples(mutated_bodies(), HEADERS), min_size=20, max_size=20))
@settings(max_examples=500, **COMMON)
def test_ten_thousand_requests_are_no_fault(
    requests: list[tuple[tuple[str, bytes], dict[str, str]]],
) -> None:
    _try([(*body, headers) for body, headers in requests])


def _body(path: str, start: str, item: str, end: str) -> tuple[str, bytes]:
    """A body of nearly 4 MiB that repeats one item."""
    count = ((4 << 20) - len(start) - len(end)) // (len(item) + 1)
    return path, (start + ",".join([item] * count) + end).encode()


LARGE = [
    _body("/v1/completions", '{"prompt":[', "1", "]}"),
    _body("/v1/completions", '{"prompt":[', "[]", "]}"),
    _body("/v1/completions", '{"prompt":[', '"a"', "]}"),
    _body("/v1/completions", '{"prompt":["', "a a", '"]}'),
    _body("/v1/completions", '{"prompt":"a","stop":[', '"a"', "]}"),
    _body("/v1/completions", '{"prompt":"a","stop":[', "1", "]}"),
    _body("/v1/completions", '{"prompt":"a","stop_token_ids":[', "1", "]}"),
    _body("/v1/chat/completions", '{"messages":[', '{"role":"user","content":""}', "]}"),
    _body("/v1/chat/completions", '{"messages":[', '{"role":1}', "]}"),
    _body("/v1/responses", '{"input":[', '{"role":"user"}', "]}"),
]


@pytest.mark.full
@pytest.mark.parametrize(
    ("path", "data"), LARGE, ids=[f"{path}-{data[:40].decode()}" for path, data in LARGE]
)
def test_the_largest_bodies_are_refused_soon(path: str, data: bytes) -> None:
    gc.collect()
    gc.freeze()  # a server's collector does not look at what other tests have left
    try:
        begun = time.process_time()
        _try([(path, data, {})])
        assert time.process_time() - begun < 3.0
    finally:
        gc.unfreeze()

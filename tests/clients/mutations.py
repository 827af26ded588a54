"""Requests that nobody should send: valid ones, changed at random into something else."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

PATHS = (
    "/v1/completions",
    "/v1/chat/completions",
    "/v1/embeddings",
    "/v1/responses",
    "/v1/models",
    "/tokenize",
    "/detokenize",
    "/metrics",
    "/",
)
STRANGE: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    1e308,
    -1e-308,
    2**63,
    2**64,
    10**40,
    "",
    "\x00",
    "\ud800",
    "a" * 5000,
    "é" * 300,
    [],
    {},
    [[]],
    [None],
    {"": None},
    {"a": {"a": {"a": {"a": []}}}},
    [0] * 3000,
    ["x"] * 300,
    "../../etc/passwd",
    "{{ cycler.__init__.__globals__ }}",
    "(a+)+$",
)
HEADERS: tuple[tuple[str, str], ...] = (
    ("Content-Type", "text/plain"),
    ("Content-Type", "application/json; charset=utf-16"),
    ("Content-Type", "multipart/form-data; boundary=x"),
    ("Content-Encoding", "gzip"),
    ("Accept", "application/xml"),
    ("Authorization", "Basic Og=="),
    ("Authorization", "Bearer " + "k" * 3000),
    ("X-Request-Id", "a b\tc" * 50),
    ("X-Request-Id", "é"),
    ("traceparent", "00-zz-zz-01"),
    ("Range", "bytes=0-1"),
    ("Expect", "200-nothing"),
    ("Host", "elsewhere.example"),
    ("Cookie", "a=b; " * 300),
    ("Transfer-Encoding", "chunked"),
    ("X-Forwarded-For", "127.0.0.1"),
)


def bases(model: str) -> list[tuple[str, dict[str, Any]]]:
    """Valid requests to begin with."""
    say = [{"role": "user", "content": "a"}]
    return [
        ("/v1/completions", {"model": model, "prompt": "a b", "max_tokens": 2}),
        ("/v1/completions", {"model": model, "prompt": [5, 6], "max_tokens": 2, "logprobs": 1}),
        (
            "/v1/completions",
            {"model": model, "prompt": ["a"], "max_tokens": 1, "stop": ["b"], "seed": 1},
        ),
        ("/v1/chat/completions", {"model": model, "messages": say, "max_tokens": 2}),
        (
            "/v1/chat/completions",
            {
                "model": model,
                "messages": say,
                "max_tokens": 2,
                "logit_bias": {"5": 1},
                "stream": True,
            },
        ),
        (
            "/v1/chat/completions",
            {
                "model": model,
                "messages": say,
                "max_tokens": 2,
                "response_format": {"type": "json_object"},
                "tools": [],
            },
        ),
        ("/v1/responses", {"model": model, "input": "a", "max_output_tokens": 16}),
        ("/v1/embeddings", {"model": model, "input": "a"}),
        ("/v1/embeddings", {"model": model, "input": [[5, 6], [7]], "dimensions": 4}),
        (
            "/v1/embeddings",
            {"model": model, "input": ["a", "b"], "encoding_format": "base64", "user": "a"},
        ),
        (
            "/v1/responses",
            {
                "model": model,
                "input": [
                    {"type": "function_call", "call_id": "1", "name": "f", "arguments": "{}"},
                    {"type": "function_call_output", "call_id": "1", "output": "a"},
                ],
                "tools": [{"type": "function", "name": "f", "parameters": {"type": "object"}}],
                "max_output_tokens": 2,
                "stream": True,
            },
        ),
        ("/tokenize", {"model": model, "prompt": "a b"}),
        ("/detokenize", {"model": model, "tokens": [5, 6]}),
    ]


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every container and key or index inside a value."""
    found: list[tuple[Any, Any]] = []
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in list(items):
        found.append((value, key))
        if isinstance(inner, dict | list):
            found += places(inner)
    return found


def mutated(rng: random.Random, model: str) -> tuple[str, str, dict[str, str], bytes]:
    """One request: method, path, headers and body."""
    path, body = rng.choice(bases(model))
    body = json.loads(json.dumps(body))
    for _ in range(rng.choice([1, 1, 2, 4])):
        spots = places(body)
        if not spots:
            break
        where, key = rng.choice(spots)
        change = rng.random()
        if change < 0.6:
            where[key] = copy.deepcopy(rng.choice(STRANGE))
        elif change < 0.8:
            del where[key]
        elif isinstance(where, dict):
            name = rng.choice(["n", "stream", "user", "echo", "best_of", "é", "__class__"])
            where[name] = copy.deepcopy(rng.choice(STRANGE))
    text = json.dumps(body).encode("utf-8", "surrogatepass")
    if rng.random() < 0.25:
        text = spoiled(rng, text)
    headers = {"Content-Type": "application/json"}
    if rng.random() < 0.3:
        name, value = rng.choice(HEADERS)
        headers[name] = value
    method = "POST" if rng.random() < 0.95 else rng.choice(["GET", "PUT", "DELETE", "OPTIONS"])
    return method, path if rng.random() < 0.95 else rng.choice(PATHS), headers, text


def spoiled(rng: random.Random, text: bytes) -> bytes:
    """A body that is no JSON any more, or another."""
    place = rng.randrange(len(text) + 1)
    return rng.choice(
        [
            text[:place],
            text[:place] + bytes([rng.randrange(256)]) + text[place:],
            text[:place] + b"NaN" + text[place:],
            text * 2,
            b"[" * 5000,
            b'{"a":' * 200 + b"1" + b"}" * 200,
            b"",
            b"null",
            b"\xff\xfe" + text,
            text.replace(b"2", b"9" * 400),
        ]
    )

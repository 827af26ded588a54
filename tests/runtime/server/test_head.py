"""HEAD: the answer to a GET without its body."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from graphopt.runtime.server.app import create_app
from graphopt.runtime.server.metrics import Metrics
from graphopt.runtime.server.observer import Observer
from graphopt.runtime.server.page import operator_routes
from graphopt.runtime.server.settings import Settings

from .fake_engine import WORDS, FakeEngine, client_of
from .running import Served

METRICS = Metrics("demo")
SETTINGS = Settings(Path("demo.gopt"), api_keys=("secret",))
APP = create_app(SETTINGS, FakeEngine(), WORDS, Observer([METRICS]))
APP.include_router(operator_routes(Metrics("demo")))


def ask(method: str, path: str, key: str = "secret") -> httpx.Response:
    async def run() -> httpx.Response:
        async with client_of(APP, authorization=f"Bearer {key}") as client:
            return await client.request(method, path)

    return asyncio.run(run())


@pytest.mark.parametrize(
    "path",
    ["/", "/health", "/ready", "/version", "/metrics", "/stats", "/openapi.json", "/v1/models",
     "/v1/models/demo", "/v1/models/other", "/tokenizer_info", "/nowhere", "/v1/completions"],
)  # fmt: skip
def test_it_is_what_get_answers(path: str) -> None:
    got, head = ask("GET", path), ask("HEAD", path)
    assert head.status_code == got.status_code
    assert head.content == b""
    numbers = path in ("/metrics", "/stats")  # which change meanwhile
    changing = {"x-request-id"} | ({"content-length"} if numbers else set())
    assert {k: v for k, v in head.headers.items() if k not in changing} == {
        k: v for k, v in got.headers.items() if k not in changing
    }


def test_keys_are_asked_for() -> None:
    assert ask("HEAD", "/v1/models", "wrong").status_code == 401


def test_routes_are_counted() -> None:
    def count() -> float:
        labels = {"method": "HEAD", "route": "/v1/models/{model:path}", "status": "200"}
        families = text_string_to_metric_families(METRICS.exposition()[1].decode())
        samples = [one for family in families for one in family.samples]
        return sum(one.value for one in samples if labels.items() <= one.labels.items())

    before = count()
    ask("HEAD", "/v1/models/demo")
    assert count() == before + 1


def test_a_server_keeps_the_connection(server: Served) -> None:
    with httpx.Client(base_url=server.url) as client:
        for _ in range(3):
            head = client.head("/v1/models")
            assert (head.status_code, head.content) == (200, b"")
            assert int(head.headers["content-length"]) == len(client.get("/v1/models").content)
        assert client.head("/v1/completions").status_code == 405

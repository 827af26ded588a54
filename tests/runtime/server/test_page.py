"""The operator's routes: what they answer, and that the page can load and run nothing else."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re

import httpx
import pytest
import schemathesis
from fastapi import FastAPI
from hypothesis import HealthCheck, settings
from prometheus_client.parser import text_string_to_metric_families

from graphopt.runtime.server.metrics import Metrics
from graphopt.runtime.server.observer import Observer
from graphopt.runtime.server.page import live_page, operator_routes

from .fake_engine import FakeEngine, app_over
from .test_observer import MODEL


def get(path: str, **options: bool) -> httpx.Response:
    metrics = Metrics("tiny", "1.2.3", "cpu")
    Observer([metrics], pulse=metrics).loaded(MODEL)
    app = FastAPI()
    app.include_router(operator_routes(metrics, **options))

    async def call() -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
            return await client.get(path)

    return asyncio.run(call())


def test_metrics_are_what_prometheus_reads() -> None:
    reply = get("/metrics")
    assert reply.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert reply.headers["cache-control"] == "no-store"
    names = {family.name for family in text_string_to_metric_families(reply.text)}
    assert "graphopt:num_requests_running" in names


@pytest.mark.parametrize("chat", [True, False])
def test_stats(chat: bool) -> None:
    reply = get("/stats", chat=chat)
    assert reply.headers["cache-control"] == "no-store"
    found = reply.json()
    assert (found["model"], found["chat"]) == ("tiny", chat)
    assert found["engine"]["num_blocks"] == 32
    assert found["embeds"] is False
    assert get("/stats", embeds=True).json()["embeds"] is True


@pytest.mark.parametrize(
    ("options", "there"),
    [
        ({}, {"/", "/stats", "/metrics"}),
        ({"page": False}, {"/metrics"}),
        ({"exposition": False}, {"/", "/stats"}),
        ({"page": False, "exposition": False}, set()),
    ],
)
def test_routes_can_be_left_out(options: dict[str, bool], there: set[str]) -> None:
    found = {path for path in ("/", "/stats", "/metrics") if get(path, **options).is_success}
    assert found == there


APP = app_over(FakeEngine(" hi"))
APP.include_router(operator_routes(Metrics("tiny")))
SCHEMA = schemathesis.openapi.from_asgi("/openapi.json", APP).include(
    path_regex="^/(stats|metrics)$"
)


@SCHEMA.parametrize()
@settings(max_examples=20, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
def test_every_answer_is_the_documents(case: schemathesis.Case) -> None:
    case.call_and_validate()


def test_the_page_may_run_its_own_blocks_and_ask_its_own_server() -> None:
    reply = get("/")
    assert reply.headers["content-type"] == "text/html; charset=utf-8"
    assert reply.headers["x-content-type-options"] == "nosniff"
    rules = dict(
        rule.strip().split(" ", 1) for rule in reply.headers["content-security-policy"].split(";")
    )
    assert rules["default-src"] == "'none'"
    assert rules["connect-src"] == "'self'"
    assert rules["frame-ancestors"] == "'none'"
    for tag, rule in (("script", "script-src"), ("style", "style-src")):
        (block,) = re.findall(rf"<{tag}>(.*?)</{tag}>", reply.text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(block.encode()).digest()).decode()
        assert rules[rule] == f"'sha256-{digest}'"


def test_the_page_is_one_file_that_names_no_other() -> None:
    text = live_page().body.decode()
    assert re.findall(r"""(?:src|href)=["']?([^"' >]+)""", text) == ["data:,"]
    assert set(re.findall(r"https?://[\w./]+", text)) == {"http://www.w3.org/2000/svg"}
    assert "innerHTML" not in text
    assert "localStorage" not in text
    assert len(text) < 100_000

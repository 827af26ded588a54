"""What an operator chose is what listens."""

from __future__ import annotations

import io
import json
from importlib.metadata import version
from pathlib import Path

import pytest

from graphopt.errors import UsageError
from graphopt.runtime.server.settings import Settings
from graphopt.runtime.server.telemetry import Telemetry


def settings(**options: object) -> Settings:
    return Settings(Path("somewhere/tiny.gopt"), **options)  # type: ignore[arg-type]


def test_requests_are_counted_and_logged() -> None:
    stream = io.StringIO()
    telemetry = Telemetry.of(settings(log_format="json"), "cpu", stream)
    record = telemetry.observer.arrived("POST", "mine")
    record.asked(3, {}, "a secret")
    telemetry.observer.ended(record)
    telemetry.close()
    assert json.loads(stream.getvalue())["id"] == "mine"
    assert "secret" not in stream.getvalue()
    stats = telemetry.metrics.stats()
    assert (stats["model"], stats["target"], stats["version"]) == (
        "tiny", "cpu", version("graphopt"),
    )  # fmt: skip
    assert stats["ended"] == {"error": 1}


def test_prompts_are_logged_if_asked() -> None:
    stream = io.StringIO()
    telemetry = Telemetry.of(settings(log_prompts=True), "cpu", stream)
    record = telemetry.observer.arrived("POST")
    record.asked(3, {}, "a secret")
    telemetry.observer.ended(record)
    assert "a secret" in stream.getvalue()


def test_quiet_logs() -> None:
    stream = io.StringIO()
    telemetry = Telemetry.of(settings(log_level="error"), "cpu", stream)
    record = telemetry.observer.arrived("POST")
    record.refused(429, "full")
    telemetry.observer.ended(record)
    assert stream.getvalue() == ""


def test_spans_need_an_endpoint() -> None:
    assert Telemetry.of(settings(), "cpu", io.StringIO()).tracing is None
    with pytest.raises(UsageError, match="no endpoint"):
        Telemetry.of(settings(otlp_endpoint="nowhere"), "cpu", io.StringIO())
    telemetry = Telemetry.of(settings(otlp_endpoint="http://127.0.0.1:9"), "cpu", io.StringIO())
    assert telemetry.tracing is not None
    telemetry.close()


@pytest.mark.parametrize(
    ("options", "paths"),
    [
        ({}, {"/", "/stats", "/metrics"}),
        ({"page": False}, {"/metrics"}),
        ({"metrics": False}, {"/", "/stats"}),
    ],
)
def test_routes_are_those_that_are_wanted(options: dict[str, bool], paths: set[str]) -> None:
    chosen = settings(**options)
    router = Telemetry.of(chosen, "cpu", io.StringIO()).routes(chosen, chat=True)
    assert {route.path for route in router.routes} == paths  # type: ignore[attr-defined]


@pytest.mark.parametrize("wrong", [{"log_format": "xml"}, {"log_level": "loud"}])
def test_what_is_unknown_is_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(UsageError, match="is unknown"):
        settings(**wrong)

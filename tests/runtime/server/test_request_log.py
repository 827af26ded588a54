"""The log of requests: one line each, at the level that it deserves, and no prompt in it."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest

from graphopt.runtime.outputs import RequestMetrics
from graphopt.runtime.server.log_lines import Lines
from graphopt.runtime.server.observer import Observer
from graphopt.runtime.server.request_log import MAX_WHY_CHARS, RequestLog
from graphopt.runtime.server.wire import Ended, Part

from .test_observer import MODEL, Time


def make(*, log_prompts: bool = False) -> tuple[Observer, Time, io.StringIO]:
    stream, clock = io.StringIO(), Time()
    log = RequestLog(Lines(stream, "json", "debug"), log_prompts=log_prompts)
    return Observer([log], clock=clock), clock, stream


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in stream.getvalue().splitlines()]
    for one in found:
        del one["time"]
    return found


def test_a_request_is_one_line() -> None:
    observer, clock, stream = make()
    record = observer.arrived("POST", "mine")
    record.route, record.status = "/v1/completions", 200
    generation = record.asked(7, {"max_tokens": 3}, "a secret prompt")
    clock.now += 0.5
    generation.parts([Part("r", 0, (1, 2))])
    generation.finished(["stop"], Ended("r", RequestMetrics(0.0, 1.0, 2.0, 4)))
    clock.now += 0.5
    observer.ended(record)
    assert lines(stream) == [
        {
            "level": "info", "event": "request", "id": "mine", "method": "POST",
            "route": "/v1/completions", "status": 200, "seconds": 1.0, "prompt_tokens": 7,
            "completion_tokens": 2, "cached_tokens": 4, "finish": ["stop"], "ttft_s": 0.5,
        }
    ]  # fmt: skip


@pytest.mark.parametrize("log_prompts", [False, True])
def test_prompts_are_logged_only_if_asked(log_prompts: bool) -> None:
    observer, _, stream = make(log_prompts=log_prompts)
    record = observer.arrived("POST")
    record.asked(7, {}, "a secret prompt")
    record.asked(7, {}, [1, 2])
    record.asked(7, {}, None)  # token ids, of which there is no text
    observer.ended(record)
    (line,) = lines(stream)
    assert line.get("prompt") == (["a secret prompt", "[1, 2]"] if log_prompts else None)
    assert ("secret" in stream.getvalue()) == log_prompts


@pytest.mark.parametrize(
    ("status", "route", "level"),
    [
        (200, "/health", "debug"),
        (200, "/metrics", "debug"),
        (200, "/v1/models", "info"),
        (503, "/ready", "warning"),
        (401, "/v1/models", "warning"),
        (429, "/v1/completions", "warning"),
        (500, "/v1/completions", "error"),
    ],
)
def test_levels(status: int, route: str, level: str) -> None:
    observer, _, stream = make()
    record = observer.arrived("GET")
    record.route, record.status = route, status
    observer.ended(record)
    assert lines(stream)[0]["level"] == level


def test_what_went_wrong_is_said_at_no_great_length() -> None:
    observer, _, stream = make()
    record = observer.arrived("POST")
    record.refused(400, "x" * 10_000)
    record.disconnected()
    observer.ended(record)
    (line,) = lines(stream)
    assert line["why"] == "x" * MAX_WHY_CHARS
    assert line["disconnected"] is True


def test_the_engine_is_told_of_elsewhere() -> None:
    observer, _, stream = make()
    observer.loaded(MODEL)
    observer.gone()
    assert stream.getvalue() == ""

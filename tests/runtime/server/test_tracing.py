"""Spans: their attributes, times and parents, and what happens without the extra."""

from __future__ import annotations

import builtins
import time
from collections.abc import Sequence
from typing import Any

import pytest
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from graphopt.errors import MachineError, UsageError
from graphopt.runtime.outputs import RequestMetrics
from graphopt.runtime.server.observer import Observer
from graphopt.runtime.server.tracing import MOST_SPANS, Tracing, otlp_exporter
from graphopt.runtime.server.wire import Ended, Part

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class Broken(SpanExporter):
    """A collector that is not there."""

    def export(self, spans: Sequence[ReadableSpan]) -> Any:
        raise ConnectionError("nobody listens")


def make() -> tuple[Observer, Tracing, InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    tracing = Tracing(exporter, "tiny", "1.2.3")
    return Observer([tracing]), tracing, exporter


def test_a_request_is_a_span_with_its_generations_below() -> None:
    observer, tracing, exporter = make()
    record = observer.arrived("POST", "mine", f"00-{TRACE}-{PARENT}-01")
    record.route, record.status = "/v1/chat/completions", 200
    for _ in range(2):
        generation = record.asked(
            7, {"max_tokens": 3, "temperature": 0.5, "stop": ["a"]}, "a secret"
        )
        generation.parts([Part("r", 0, (1, 2))])
        generation.finished(
            ["stop"], Ended("r", RequestMetrics(10.0, 11.0, 12.0, 4, started_s=10.25))
        )
    observer.ended(record)
    tracing.close()
    *children, server = exporter.get_finished_spans()
    assert (server.name, server.kind) == ("POST /v1/chat/completions", SpanKind.SERVER)
    assert format(server.context.trace_id, "032x") == TRACE
    assert format(server.parent.span_id, "016x") == PARENT
    assert dict(server.attributes) == {
        "http.request.method": "POST", "http.route": "/v1/chat/completions",
        "http.response.status_code": 200, "graphopt.request.id": "mine",
        "graphopt.request.prompts": 2,
    }  # fmt: skip
    assert server.resource.attributes["service.name"] == "graphopt"
    assert len(children) == 2
    for child in children:
        assert child.name == "chat tiny"
        assert child.parent.span_id == server.context.span_id
        attributes = dict(child.attributes)
        assert attributes.pop("gen_ai.response.time_to_first_chunk") >= 0
        assert attributes == {
            "gen_ai.operation.name": "chat", "gen_ai.provider.name": "graphopt",
            "gen_ai.request.model": "tiny", "gen_ai.response.model": "tiny",
            "gen_ai.request.max_tokens": 3, "gen_ai.request.temperature": 0.5,
            "gen_ai.usage.input_tokens": 7, "gen_ai.usage.output_tokens": 2,
            "gen_ai.usage.cache_read.input_tokens": 4, "gen_ai.response.finish_reasons": ("stop",),
            "graphopt.queue_seconds": 0.25,
        }  # fmt: skip
        assert server.start_time <= child.start_time <= child.end_time <= server.end_time
        (event,) = child.events
        assert child.start_time <= event.timestamp <= child.end_time
    assert abs(server.end_time / 1e9 - time.time()) < 60
    assert "secret" not in str([span.to_json() for span in exporter.get_finished_spans()])


def test_of_many_texts_the_first_have_a_span() -> None:
    observer, tracing, exporter = make()
    record = observer.arrived("POST")
    record.route, record.status = "/v1/embeddings", 200
    for _ in range(2048):
        record.asked(7).finished(["stop"], Ended("r", RequestMetrics(10.0, None, 12.0)))
    observer.ended(record)
    tracing.close()
    *children, server = exporter.get_finished_spans()
    assert server.attributes["graphopt.request.prompts"] == 2048
    assert {child.name for child in children} == {"embeddings tiny"}
    assert len(children) == MOST_SPANS


@pytest.mark.parametrize("parent", [None, "nonsense", "00-" + "0" * 32 + "-" + "0" * 16 + "-01"])
def test_without_a_trace_one_begins(parent: str | None) -> None:
    observer, tracing, exporter = make()
    record = observer.arrived("POST", None, parent)
    record.asked(1)
    observer.ended(record)
    tracing.close()
    assert exporter.get_finished_spans()[-1].parent is None


def test_a_trace_that_is_not_sampled_is_not_sent() -> None:
    observer, tracing, exporter = make()
    record = observer.arrived("POST", None, f"00-{TRACE}-{PARENT}-00")
    record.asked(1)
    observer.ended(record)
    tracing.close()
    assert exporter.get_finished_spans() == ()


def test_failures_are_marked_and_other_requests_make_no_span() -> None:
    observer, tracing, exporter = make()
    observer.ended(observer.arrived("GET"))
    record = observer.arrived("POST")
    record.asked(1)
    record.refused(503, "the engine is gone")
    observer.ended(record)
    tracing.close()
    _, server = exporter.get_finished_spans()
    assert server.status.status_code is StatusCode.ERROR
    assert server.status.description == "the engine is gone"


def test_a_collector_that_is_gone_stops_nothing() -> None:
    tracing = Tracing(Broken(), "tiny")
    observer = Observer([tracing])
    for _ in range(10):
        record = observer.arrived("POST")
        record.asked(1)
        observer.ended(record)
    tracing.close()
    assert record.finished_s is not None


def test_endpoints() -> None:
    for given, url in {
        "http://localhost:4318": "http://localhost:4318/v1/traces",
        "http://localhost:4318/": "http://localhost:4318/v1/traces",
        "https://there/otlp/traces": "https://there/otlp/traces",
    }.items():
        exporter = otlp_exporter(given)
        assert isinstance(exporter, OTLPSpanExporter)
        assert exporter._endpoint == url
    for wrong in ("localhost:4318", "", "grpc://there", "http://"):
        with pytest.raises(UsageError, match="no endpoint"):
            otlp_exporter(wrong)


def test_without_the_extra_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.startswith("opentelemetry"):
            raise ImportError(f"No module named {name!r}")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    for attempt in (lambda: otlp_exporter("http://a"), lambda: Tracing(Broken(), "tiny")):
        with pytest.raises(MachineError, match="OpenTelemetry") as caught:
            attempt()
        assert caught.value.next == "pip install 'graphopt[otel]'"

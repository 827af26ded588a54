"""Requests as spans of OpenTelemetry, sent to a collector; an extra, ``graphopt[otel]``.

A request that reached the engine becomes a span of the server, and below it one for each request to
the engine, with the attributes ``gen_ai.*`` of OpenTelemetry's conventions. They are made when the
answer has ended, with the times that it had, so a token costs nothing. The model's name in them is
the one that it is served under.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

from graphopt.errors import MachineError, UsageError

from .observer import Generation, Record
from .wire import Opened

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter

PROVIDER = "graphopt"
EXPORT_S = (
    2.0  # how long spans are tried to be sent, so also how long the end may wait for a collector
)
MOST_SPANS = 32  # of requests to the engine that one HTTP request made; the first of them are told
OPERATIONS: Mapping[str, str] = MappingProxyType(
    {
        "/v1/chat/completions": "chat",
        "/v1/completions": "text_completion",
        "/v1/responses": "chat",
        "/v1/embeddings": "embeddings",
    }
)
# Fields of SamplingParams that the conventions have a name for.
PARAMS: Mapping[str, str] = MappingProxyType(
    {
        "temperature": "gen_ai.request.temperature",
        "top_p": "gen_ai.request.top_p",
        "top_k": "gen_ai.request.top_k",
        "max_tokens": "gen_ai.request.max_tokens",
        "presence_penalty": "gen_ai.request.presence_penalty",
        "frequency_penalty": "gen_ai.request.frequency_penalty",
        "seed": "gen_ai.request.seed",
        "n": "gen_ai.request.choice.count",
    }
)
Attributes = dict[str, str | int | float | Sequence[str]]


def otlp_exporter(endpoint: str) -> SpanExporter:
    """Sends spans to ``endpoint`` by OTLP over HTTP; without a path it is that of traces.

    Raises:
        UsageError: this is no URL.
        MachineError: the extra is not installed.
    """
    url = urlsplit(endpoint)
    if url.scheme not in ("http", "https") or not url.netloc:
        raise UsageError(
            "this is no endpoint of OTLP over HTTP",
            got=endpoint,
            expected="a URL such as http://localhost:4318",
        )
    if url.path in ("", "/"):
        url = url._replace(path="/v1/traces")
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    except ImportError as error:
        raise _missing(error) from error
    return OTLPSpanExporter(endpoint=urlunsplit(url), timeout=EXPORT_S)


class Tracing:
    """A listener that makes spans.

    Args:
        exporter: sends them, in a thread of its own.
        model_name: what the model is served under.
        version: of graphopt.

    Raises:
        MachineError: the extra is not installed.
    """

    def __init__(self, exporter: SpanExporter, model_name: str, version: str = "") -> None:
        try:
            from opentelemetry import trace
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
            from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
        except ImportError as error:
            raise _missing(error) from error
        self._trace = trace
        self._model_name = model_name
        resource = Resource.create({"service.name": PROVIDER, "service.version": version})
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer(PROVIDER, version)
        self._propagator = TraceContextTextMapPropagator()

    def close(self) -> None:
        """Send what has not been sent, and stop."""
        self._provider.shutdown()

    def arrived(self, record: Record) -> None:
        """Nothing: spans are made at the end."""

    def loaded(self, model: Opened) -> None:
        """Nothing: the engine's life is no request."""

    def gone(self) -> None:
        """Nothing, likewise."""

    def ended(self, record: Record) -> None:
        """The spans of one request, if it reached the engine."""
        if not record.generations or record.finished_s is None:
            return
        carrier = {} if record.traceparent is None else {"traceparent": record.traceparent}
        offset_s = time.time() - time.monotonic()
        attributes: Attributes = {
            "http.request.method": record.method,
            "http.route": record.route,
            "graphopt.request.id": record.id,
            "graphopt.request.prompts": len(record.generations),
        }
        if record.status is not None:
            attributes["http.response.status_code"] = record.status
        span = self._tracer.start_span(
            f"{record.method} {record.route}",
            self._propagator.extract(carrier),
            self._trace.SpanKind.SERVER,
            attributes,
            start_time=_nanoseconds(record.arrived_s, offset_s),
        )
        if record.why is not None:
            span.set_status(self._trace.StatusCode.ERROR, record.why)
        inside = self._trace.set_span_in_context(span)
        operation = OPERATIONS.get(record.route, "text_completion")
        for generation in record.generations[:MOST_SPANS]:
            child = self._tracer.start_span(
                f"{operation} {self._model_name}",
                inside,
                attributes=self._attributes(operation, record, generation),
                start_time=_nanoseconds(generation.asked_s, offset_s),
            )
            end_s = generation.finished_s or record.finished_s
            if generation.first_token_s is not None:
                at = _nanoseconds(generation.first_token_s, offset_s)
                child.add_event("gen_ai.first_token", timestamp=at)
            child.end(_nanoseconds(end_s, offset_s))
        span.end(_nanoseconds(record.finished_s, offset_s))

    def _attributes(self, operation: str, record: Record, generation: Generation) -> Attributes:
        """What the conventions say of a request to a model."""
        found: Attributes = {
            "gen_ai.operation.name": operation,
            "gen_ai.provider.name": PROVIDER,
            "gen_ai.request.model": self._model_name,
            "gen_ai.response.model": self._model_name,
            "gen_ai.usage.input_tokens": generation.prompt_tokens,
            "gen_ai.usage.output_tokens": generation.completion_tokens,
            "gen_ai.response.finish_reasons": generation.reasons,
        }
        for name, attribute in PARAMS.items():
            value: Any = generation.params.get(name)
            if isinstance(value, int | float):
                found[attribute] = value
        if generation.first_token_s is not None:
            waited_s = generation.first_token_s - record.arrived_s
            found["gen_ai.response.time_to_first_chunk"] = waited_s
        if generation.ended is not None:
            times = generation.ended.metrics
            found["gen_ai.usage.cache_read.input_tokens"] = times.cached_tokens
            if times.started_s is not None:
                found["graphopt.queue_seconds"] = times.started_s - times.arrival_s
        return found


def _nanoseconds(monotonic_s: float, offset_s: float) -> int:
    """A time of the monotonic clock as nanoseconds since 1970."""
    return int((monotonic_s + offset_s) * 1e9)


def _missing(error: ImportError) -> MachineError:
    return MachineError(
        "traces need OpenTelemetry", got=str(error), next="pip install 'graphopt[otel]'"
    )

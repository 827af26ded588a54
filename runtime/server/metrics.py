"""What happened, in numbers: for Prometheus, and for the page.

Requests are counted when their answers end, tokens as they come. What the engine does it counts by
itself, from zero in every process of it; what those that died had counted is added here.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from types import MappingProxyType
from typing import Any

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)

from .distribution import Distribution
from .metric_table import METRICS, MODEL, PREFIX
from .observer import REASONS, Generation, Record
from .wire import Opened, State

# Fields of ``wire.State`` that count from the engine's start, by the metrics that they are.
TOTALS: Mapping[str, str] = MappingProxyType(
    {
        "prompt_tokens": "prompt_tokens",
        "generation_tokens": "generated_tokens",
        "engine_steps": "steps",
        "num_preemptions": "preemptions",
        "prefix_cache_queries": "prefix_queries",
        "prefix_cache_hits": "prefix_hits",
    }
)
# Histograms whose percentiles the page shows, by their names there.
SHOWN: Mapping[str, str] = MappingProxyType(
    {
        "ttft": "time_to_first_token_seconds",
        "itl": "inter_token_latency_seconds",
        "tpot": "request_time_per_output_token_seconds",
        "e2e": "e2e_request_latency_seconds",
        "queue": "request_queue_time_seconds",
    }
)
SAMPLE_S, SAMPLES = 1.0, 120  # what the page draws of the past
METHODS = frozenset(("GET", "POST", "HEAD", "OPTIONS", "PUT", "PATCH", "DELETE"))
_FAILED = frozenset(("abort", "error"))

Counts = Counter[tuple[str, ...]]


class Metrics:
    """The numbers of one server; both a listener and the pulse of its observer.

    Args:
        model_name: what the label ``model_name`` says.
        version: of graphopt.
        target: of the artifact.
        clock: seconds of a clock that never goes back.

    Usage: ``metrics = Metrics("tiny"); observer = Observer([metrics], pulse=metrics)``, and then
    ``content_type, body = metrics.exposition()``.
    """

    def __init__(
        self,
        model_name: str,
        version: str = "",
        target: str = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._model_name = model_name
        self._build = {"version": version, "target": target}
        self._clock = clock
        self._started_s = clock()
        self._model: Opened | None = None
        self._state = State()
        self._loads = 0
        self._gone_totals: Counter[str] = Counter()  # counted by engines that are gone
        self._in_flight = 0
        self._disconnects = 0
        self._counts: dict[str, Counts] = {
            name: Counter()
            for name, metric in METRICS.items()
            if metric.kind == "counter" and metric.labels
        }
        # A series that starts with its first event would hide that event from rate().
        self._counts["request_success"].update({(reason,): 0 for reason in REASONS})
        self._distributions = {
            name: Distribution(metric.bounds, metric.keep)
            for name, metric in METRICS.items()
            if metric.kind == "histogram" and not metric.labels
        }
        self._routes: dict[str, Distribution] = {}
        self._history: deque[dict[str, Any]] = deque(maxlen=SAMPLES)
        self._next_sample_s = 0.0
        # Distributions themselves are the pulse: a call less for every token.
        self.first_token = self._distributions["time_to_first_token_seconds"].observe
        self.between_tokens = self._distributions["inter_token_latency_seconds"].observe
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def stepped(self, state: State) -> None:
        """The engine after a step."""
        self._state = state
        now_s = self._clock()
        if now_s >= self._next_sample_s:
            self._next_sample_s = now_s + SAMPLE_S
            self._history.append(self._sample(now_s))

    def loaded(self, model: Opened) -> None:
        """The engine serves, and counts from zero."""
        self._keep_totals()
        self._model = model
        self._loads += 1

    def gone(self) -> None:
        """The engine died."""
        self._keep_totals()
        self._model = None

    def _keep_totals(self) -> None:
        for field in TOTALS.values():
            self._gone_totals[field] += getattr(self._state, field)
        self._state = State()

    def arrived(self, record: Record) -> None:
        """A request has come."""
        self._in_flight += 1

    def ended(self, record: Record) -> None:
        """A request's answer has ended."""
        self._in_flight -= 1
        status = str(record.status) if record.status is not None else "none"
        method = record.method if record.method in METHODS else "other"
        self._counts["http_requests"][method, record.route, status] += 1
        if record.why is not None or (record.status is not None and record.status >= 400):
            self._counts["request_refused"][(status,)] += 1
        self._disconnects += record.gone
        if record.route not in self._routes:
            bounds = METRICS["http_request_duration_seconds"].bounds
            self._routes[record.route] = Distribution(bounds, keep=1)
        if record.finished_s is not None:
            self._routes[record.route].observe(record.finished_s - record.arrived_s)
        for generation in record.generations:
            self._count(generation, record.arrived_s)

    def _count(self, generation: Generation, arrived_s: float) -> None:
        """Count one request to the engine, which has ended."""
        for reason in generation.reasons:
            self._counts["request_success"][(reason,)] += 1
        observe = self._observe
        observe("request_prompt_tokens", generation.prompt_tokens)
        if not _FAILED.isdisjoint(generation.reasons):
            return
        observe("request_generation_tokens", generation.completion_tokens)
        observe("e2e_request_latency_seconds", generation.finished_s, arrived_s)
        after_first = generation.completion_tokens / max(1, len(generation.reasons)) - 1
        if after_first > 0 and generation.first_token_s and generation.last_token_s:
            mean = (generation.last_token_s - generation.first_token_s) / after_first
            observe("request_time_per_output_token_seconds", mean)
        if generation.ended is not None:
            times = generation.ended.metrics
            observe("request_queue_time_seconds", times.started_s, times.arrival_s)
            observe("request_prefill_time_seconds", times.first_token_s, times.started_s)
            observe("request_decode_time_seconds", times.finished_s, times.first_token_s)

    def _observe(self, name: str, end: float | None, start: float | None = 0.0) -> None:
        """Count the time from ``start`` to ``end``, if both are known."""
        if end is not None and start is not None:
            self._distributions[name].observe(end - start)

    def totals(self) -> dict[str, int]:
        """What engines have done since the server started, by the names of the metrics."""
        return {
            name: self._gone_totals[field] + getattr(self._state, field)
            for name, field in TOTALS.items()
        }

    def exposition(self) -> tuple[str, bytes]:
        """Content type and text of everything, in the format that every Prometheus reads.

        Not in OpenMetrics', if it is asked for: prometheus-client 0.26 writes the colon of a
        sample's name as an underscore there, and so gives it another name than its family.
        """
        return CONTENT_TYPE_PLAIN_0_0_4, generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """Every metric as it is now; what prometheus-client asks for."""
        numbers = self._numbers()
        for name, metric in METRICS.items():
            labels = (MODEL, *metric.labels)
            full, key = PREFIX + name, self._model_name
            if metric.kind == "gauge":
                gauge = GaugeMetricFamily(full, metric.help, labels=labels)
                gauge.add_metric([key], numbers[name])
                yield gauge
            elif metric.kind == "counter":
                counter = CounterMetricFamily(full, metric.help, labels=labels)
                for values, count in sorted(self._counts.get(name, {}).items()):
                    counter.add_metric([key, *values], count)
                if not metric.labels:
                    counter.add_metric([key], numbers[name])
                yield counter
            elif metric.kind == "histogram":
                histogram = HistogramMetricFamily(full, metric.help, labels=labels)
                if metric.labels:
                    for route, one in sorted(self._routes.items()):
                        histogram.add_metric([key, route], one.cumulative(), one.sum)
                else:
                    one = self._distributions[name]
                    histogram.add_metric([key], one.cumulative(), one.sum)
                yield histogram
        yield from self._infos()

    def _numbers(self) -> dict[str, float]:
        """The gauges, and the counters without labels."""
        state, model = self._state, self._model
        return {
            **self.totals(),
            "engine_up": float(model is not None),
            "num_requests_running": state.running,
            "num_requests_waiting": state.waiting,
            "kv_cache_usage_perc": state.used_blocks / model.num_blocks if model else 0.0,
            "num_http_requests": self._in_flight,
            "engine_restarts": max(0, self._loads - 1),
            "client_disconnects": self._disconnects,
        }

    def _infos(self) -> Iterator[Metric]:
        """What is served."""
        known: dict[str, Mapping[str, str]] = {"build": self._build}
        if self._model is not None:
            model = self._model
            known["engine"] = {one: str(getattr(model, one)) for one in METRICS["engine"].labels}
        for name, labels in known.items():
            info = InfoMetricFamily(PREFIX + name, METRICS[name].help, labels=[MODEL])
            info.add_metric([self._model_name], dict(labels))
            yield info

    def stats(self, *, history: bool = False) -> dict[str, Any]:
        """What the page shows, as plain data; times in milliseconds where their names say so.

        Args:
            history: whether to add how it was in seconds past, those in which the engine worked.
        """
        now_s = self._clock()
        found = {
            "model": self._model_name,
            **self._build,
            **self._sample(now_s),
            "ended": {r[0]: count for r, count in self._counts["request_success"].items() if count},
            "refused": {s[0]: count for s, count in self._counts["request_refused"].items()},
        }
        if history:
            since_s = now_s - SAMPLES * SAMPLE_S
            found["history"] = [one for one in self._history if one["now_s"] > since_s]
        return found

    def _sample(self, now_s: float) -> dict[str, Any]:
        """What changes from second to second."""
        quantiles = {
            name: self._distributions[metric].quantiles() for name, metric in SHOWN.items()
        }
        model = self._model
        return {
            "now_s": now_s,
            "uptime_s": now_s - self._started_s,
            "numbers": self._numbers(),
            "engine": None
            if model is None
            else {
                "used_blocks": self._state.used_blocks,
                **{one: getattr(model, one) for one in METRICS["engine"].labels},
                "memory": model.memory,
            },
            "latencies_ms": {
                name: None
                if one is None
                else {k: v if k == "count" else v * 1000.0 for k, v in asdict(one).items()}
                for name, one in quantiles.items()
            },
        }

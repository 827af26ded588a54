"""Every metric there is: its name, what it counts, and its labels. docs/metrics.md is made of it.

Names, labels and units are vLLM's where it has the same thing, so that dashboards need only another
prefix. No label comes from a request: a model's name is the one it is served under, a route is one
of the app's, and a method, a status and a reason are of small sets.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

PREFIX = "graphopt:"
MODEL = "model_name"
Kind = Literal["counter", "gauge", "histogram", "info"]

# Up to 1 s in steps of about two, since a decode of a small model takes a millisecond.
SECONDS = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0,
)  # fmt: skip
TOKEN_SECONDS = (
    0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1.0, 5.0,
)  # fmt: skip
REQUEST_SECONDS = (
    0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0,
)  # fmt: skip
TOKENS = tuple(float(1 << power) for power in range(18))


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric.

    Attributes:
        kind: of Prometheus.
        help: what it is, a sentence.
        labels: names of its labels, besides the model's name.
        bounds: buckets of a histogram.
        keep: of a histogram, how many numbers the page's percentiles are taken from.
    """

    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    bounds: tuple[float, ...] = ()
    keep: int = 1024


def _time(help: str, bounds: tuple[float, ...] = SECONDS, keep: int = 1024) -> Metric:
    return Metric("histogram", help, bounds=bounds, keep=keep)


# By name, without the prefix and the suffix that Prometheus gives to counters and infos.
METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        # What the engine does now.
        "engine_up": Metric("gauge", "1 while the engine serves, 0 while it loads or is gone."),
        "num_requests_running": Metric("gauge", "Sequences that hold KV blocks."),
        "num_requests_waiting": Metric("gauge", "Sequences that wait for a place in the batch."),
        "kv_cache_usage_perc": Metric("gauge", "Share of the KV blocks in use, 0 to 1."),
        "num_http_requests": Metric("gauge", "HTTP requests whose answer has not ended."),
        # What it has done, engines that died included.
        "prompt_tokens": Metric("counter", "Prompt tokens computed or found in the prefix cache."),
        "generation_tokens": Metric("counter", "Tokens drawn."),
        "engine_steps": Metric("counter", "Steps of the engine."),
        "num_preemptions": Metric("counter", "Sequences that lost their KV blocks to others."),
        "prefix_cache_queries": Metric("counter", "Prompt tokens looked up in the prefix cache."),
        "prefix_cache_hits": Metric("counter", "Prompt tokens found in the prefix cache."),
        "engine_restarts": Metric("counter", "Times that the engine loaded again after its death."),
        # How requests ended.
        "request_success": Metric(
            "counter",
            "Samples that ended, by reason: stop, length, tool_calls, abort or error.",
            ("finished_reason",),
        ),
        "request_refused": Metric(
            "counter", "HTTP requests answered with an error, by status.", ("status",)
        ),
        "client_disconnects": Metric("counter", "Clients that went away before the end."),
        "http_requests": Metric(
            "counter",
            "HTTP requests answered; a path that is no route counts as other.",
            ("method", "route", "status"),
        ),
        # How long they took.
        "time_to_first_token_seconds": _time(
            "From a request's arrival to its first token, as the HTTP process saw them."
        ),
        "inter_token_latency_seconds": _time(
            "Between two successive tokens of a sample.", TOKEN_SECONDS, 4096
        ),
        "request_time_per_output_token_seconds": _time(
            "Of a request, the mean time per token after the first.", TOKEN_SECONDS
        ),
        "e2e_request_latency_seconds": _time(
            "From a request's arrival to its end.", REQUEST_SECONDS
        ),
        "request_queue_time_seconds": _time("Wait in the engine for a place in the batch."),
        "request_prefill_time_seconds": _time(
            "From a place in the batch to the first token, as the engine saw them."
        ),
        "request_decode_time_seconds": _time(
            "From the first token to the last, as the engine saw them.", REQUEST_SECONDS
        ),
        "http_request_duration_seconds": Metric(
            "histogram",
            "From an HTTP request's head to the end of its answer, by route.",
            ("route",),
            REQUEST_SECONDS,
        ),
        # How large they were.
        "request_prompt_tokens": Metric("histogram", "Length of a prompt.", (), TOKENS),
        "request_generation_tokens": Metric(
            "histogram", "Tokens generated for a request, all samples together.", (), TOKENS
        ),
        # What is served.
        "build": Metric("info", "The server and its model.", ("version", "target")),
        "engine": Metric(
            "info",
            "The engine's limits; absent while it is not up.",
            ("block_size", "num_blocks", "max_model_len", "max_num_seqs"),
        ),
    }
)


def exported_name(name: str) -> str:
    """A metric's name as Prometheus shows it."""
    suffix = {"counter": "_total", "info": "_info"}.get(METRICS[name].kind, "")
    return f"{PREFIX}{name}{suffix}"

"""Write docs/metrics.md from the table of metrics, so that the page cannot fall behind.

python -m tools.metrics_page            # writes the page
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from graphopt.runtime.server.metric_table import METRICS, exported_name

PAGE = Path(__file__).parent.parent / "docs" / "metrics.md"
_HEAD = """# Metrics

<!-- Generated from runtime/server/metric_table.py by `python -m tools.metrics_page`. -->

`graphopt serve` answers `GET /metrics` in Prometheus' text format. With API keys the route asks for
one like every other; in Prometheus' configuration that is

```yaml
scrape_configs:
  - job_name: graphopt
    authorization: {credentials: YOUR-KEY}
    static_configs: [{targets: ["localhost:8000"]}]
```

Every metric has the label `model_name`, the first name that the model is served under, and those of
the table. No label is taken from a request, so there are at most as many series as routes,
statuses and reasons make. Names and units are vLLM's where it has the same thing: a dashboard made
for it works once `vllm:` reads `graphopt:`.

Counters go on when the engine process dies and is started again. A request that asks for several
samples of several prompts counts once for each prompt in the histograms, and once for each sample
in `graphopt:request_success_total`. Latencies are those of requests that ended with `stop`,
`length` or `tool_calls`; only the first token and the times between tokens count as they come. A
text that was embedded counts as a request that ended with `stop`, and has the tokens of its prompt
only.

| metric | kind | labels | what it is |
| --- | --- | --- | --- |
"""
_MIDDLE = """
`process_*` are the CPU time, memory and open files of the HTTP process.

## Buckets

In seconds, or in tokens; each histogram has one more bucket for what is larger.

"""
_QUERIES_HEAD = """
## Queries

| question | query |
| --- | --- |
"""
_AFTER = """
## The page and `/stats`

`GET /` is a page that shows the running engine: batch, queue, KV memory, tokens per second and
latencies, with a small chat. It is one file that needs no network. Where keys are needed the
browser asks for one: any name, and the key as the password. The page asks itself if that key is no
longer taken. Either way it stays in memory. What the page shows it reads from `GET /stats`, JSON
with the numbers of this table as they are now and percentiles of the last 1,024 requests and 4,096
tokens; `?history=true` adds the last two minutes. `--no-page` leaves both out, `--no-metrics`
leaves out `/metrics`.

## Logs

`graphopt serve` writes one line for each request to stderr when its answer has ended, as text or,
with `--log-format json`, as a JSON object:

```json
{"time": "2026-05-01T12:00:00.125Z", "level": "info", "event": "request", "id": "5c0e…",
 "method": "POST", "route": "/v1/chat/completions", "status": 200, "seconds": 0.412,
 "prompt_tokens": 31, "completion_tokens": 64, "cached_tokens": 16, "finish": "stop",
 "ttft_s": 0.018}
```

The id is the client's `X-Request-Id`, if that is at most 64 letters, digits and `._:-`; else one is
made. The answer carries it. Health checks and scrapes are at the level `debug`, refusals at
`warning`, failures of the server at `error`. Neither prompts nor keys are logged; `--log-prompts`
adds prompts.

## Traces

With `--otlp-endpoint URL` each request becomes a span with the attributes `gen_ai.*` of
OpenTelemetry's conventions, sent to `URL` by OTLP over HTTP. It continues the trace of a
`traceparent` header. Needs the extra `graphopt[otel]`.
"""

QUERIES: Mapping[str, str] = MappingProxyType(
    {
        "tokens per second": "rate(graphopt:generation_tokens_total[1m])",
        "99th percentile of the time to the first token": "histogram_quantile(0.99, sum by (le) "
        "(rate(graphopt:time_to_first_token_seconds_bucket[5m])))",
        "share of prompt tokens found in the prefix cache": "rate("
        "graphopt:prefix_cache_hits_total[5m]) / rate(graphopt:prefix_cache_queries_total[5m])",
        "share of requests refused or failed": "sum(rate(graphopt:request_refused_total[5m])) "
        "/ sum(rate(graphopt:http_requests_total[5m]))",
        "full for minutes": "min_over_time(graphopt:num_requests_waiting[5m]) > 0",
        "the engine died": "increase(graphopt:engine_restarts_total[1h]) > 0",
    }
)


def page() -> str:
    """The text of docs/metrics.md."""
    rows = [
        f"| `{exported_name(name)}` | {metric.kind} | "
        f"{', '.join(f'`{label}`' for label in metric.labels)} | {metric.help} |\n"
        for name, metric in METRICS.items()
    ]
    bounds = {
        name: ", ".join(f"{bound:g}" for bound in metric.bounds)
        for name, metric in METRICS.items()
        if metric.bounds
    }
    same: dict[str, list[str]] = {}
    for name, text in bounds.items():
        same.setdefault(text, []).append(f"`{name}`")
    buckets = [f"- {', '.join(names)}: {text}\n" for text, names in same.items()]
    queries = [f"| {question} | `{query}` |\n" for question, query in QUERIES.items()]
    return "".join([_HEAD, *rows, _MIDDLE, *buckets, _QUERIES_HEAD, *queries, _AFTER])


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")

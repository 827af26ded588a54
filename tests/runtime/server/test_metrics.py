"""Metrics: every number against what was done, as Prometheus' own parser reads it."""

from __future__ import annotations

import itertools
import json
import random

import pytest
from prometheus_client.parser import text_string_to_metric_families as parse_text

from graphopt.runtime.outputs import RequestMetrics
from graphopt.runtime.server.metric_table import METRICS, exported_name
from graphopt.runtime.server.metrics import Metrics
from graphopt.runtime.server.observer import Observer
from graphopt.runtime.server.wire import Ended, Opened, Part, State

from .test_observer import MODEL, Time

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def make(name: str = "tiny") -> tuple[Metrics, Observer, Time]:
    clock = Time()
    metrics = Metrics(name, "1.2.3", "cpu", clock)
    return metrics, Observer([metrics], pulse=metrics, clock=clock), clock


def read(metrics: Metrics) -> Samples:
    """All samples by name and labels, the model's name left out."""
    content_type, body = metrics.exposition()
    assert content_type.startswith("text/plain")
    found: Samples = {}
    for family in parse_text(body.decode()):
        for sample in family.samples:
            labels = dict(sample.labels)
            if sample.name.startswith("graphopt:"):
                assert labels.pop("model_name") == "tiny"
            key = (sample.name.removeprefix("graphopt:"), tuple(sorted(labels.items())))
            assert key not in found
            found[key] = sample.value
    return found


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples[name, tuple(sorted(labels.items()))]


def test_every_metric_of_the_table_is_there() -> None:
    metrics, observer, _ = make()
    observer.loaded(MODEL)
    observer.ended(observer.arrived("GET"))
    body = metrics.exposition()[1].decode()
    for name, metric in METRICS.items():
        kind = "gauge" if metric.kind == "info" else metric.kind
        assert f"# TYPE {exported_name(name)} {kind}\n" in body
    assert "process_resident_memory_bytes" in body


def test_a_request_is_counted_once_in_each_histogram() -> None:
    metrics, observer, clock = make()
    record = observer.arrived("POST")
    record.route, record.status = "/v1/completions", 200
    clock.now += 1.0
    generation = record.asked(17)
    clock.now += 0.5
    generation.parts([Part("r", 0, (1,))])
    for _ in range(4):
        clock.now += 0.25
        generation.parts([Part("r", 0, (1,))])
    clock.now += 0.1
    generation.finished(["length"], Ended("r", RequestMetrics(5.0, 5.75, 7.0, started_s=5.5)))
    assert value(read(metrics), "num_http_requests") == 1
    clock.now += 0.4
    observer.ended(record)

    samples = read(metrics)
    for name, total in {
        "time_to_first_token_seconds": 1.5,
        "inter_token_latency_seconds": 1.0,
        "request_time_per_output_token_seconds": 0.25,
        "e2e_request_latency_seconds": 2.6,
        "request_queue_time_seconds": 0.5,
        "request_prefill_time_seconds": 0.25,
        "request_decode_time_seconds": 1.25,
        "request_prompt_tokens": 17,
        "request_generation_tokens": 5,
    }.items():
        assert value(samples, f"{name}_sum") == pytest.approx(total)
        assert value(samples, f"{name}_count") == (4 if "inter" in name else 1)
        assert value(samples, f"{name}_bucket", le="+Inf") == (4 if "inter" in name else 1)
    assert value(samples, "request_success_total", finished_reason="length") == 1
    assert value(samples, "num_http_requests") == 0
    assert value(
        samples, "http_requests_total", method="POST", route="/v1/completions", status="200"
    ) == 1  # fmt: skip
    assert value(
        samples, "http_request_duration_seconds_sum", route="/v1/completions"
    ) == pytest.approx(3.0)
    assert ("request_refused_total", (("status", "200"),)) not in samples


def test_samples_decode_side_by_side() -> None:
    metrics, observer, clock = make()
    record = observer.arrived("POST")
    generation = record.asked(2)
    for _ in range(3):
        generation.parts([Part("r", 0, (1,)), Part("r", 1, (1,))])
        clock.now += 1.0
    generation.finished(["stop", "length"])
    observer.ended(record)
    samples = read(metrics)
    assert value(samples, "request_time_per_output_token_seconds_sum") == 1.0
    assert value(samples, "inter_token_latency_seconds_count") == 4
    assert value(samples, "request_success_total", finished_reason="stop") == 1
    assert value(samples, "request_success_total", finished_reason="length") == 1


def test_what_failed_has_no_latency() -> None:
    metrics, observer, clock = make()
    for gone in (True, False):
        record = observer.arrived("POST")
        record.asked(2).parts([Part("r", 0, (1,))])
        clock.now += 1.0
        if gone:
            record.disconnected()
        observer.ended(record)
    samples = read(metrics)
    assert value(samples, "e2e_request_latency_seconds_count") == 0
    assert value(samples, "time_to_first_token_seconds_count") == 2
    assert value(samples, "request_success_total", finished_reason="abort") == 1
    assert value(samples, "request_success_total", finished_reason="error") == 1
    assert value(samples, "client_disconnects_total") == 1


@pytest.mark.parametrize("status", [400, 401, 413, 429, 503])
def test_refusals_are_counted_by_status(status: int) -> None:
    metrics, observer, _ = make()
    for _ in range(3):
        record = observer.arrived("POST")
        record.refused(status, "no")
        observer.ended(record)
    samples = read(metrics)
    assert value(samples, "request_refused_total", status=str(status)) == 3
    assert value(
        samples, "http_requests_total", method="POST", route="other", status=str(status)
    ) == 3  # fmt: skip


def test_nothing_that_a_client_sends_becomes_a_label() -> None:
    metrics, observer, _ = make()
    rng = random.Random(0)
    for _ in range(200):
        word = "".join(rng.choices("abcdefgh", k=12))
        record = observer.arrived(word.upper(), word, f"00-{word}")
        record.asked(3, {"model": word}, word).finished([word])
        record.refused(404, f"no model {word}")
        observer.ended(record)
    body = metrics.exposition()[1].decode()
    assert body.count("\n") < 600
    assert value(read(metrics), "http_requests_total", method="other", route="other",
                 status="404") == 200  # fmt: skip
    assert value(read(metrics), "request_success_total", finished_reason="error") == 200


def test_totals_go_on_when_the_engine_starts_again() -> None:
    metrics, observer, _ = make()
    rng, expected = random.Random(1), 0
    for life in range(4):
        observer.loaded(MODEL)
        for _ in range(rng.randint(1, 5)):
            last = State(
                running=2, waiting=1, used_blocks=8, generated_tokens=rng.randint(1, 99),
                prompt_tokens=7, steps=3, preemptions=1, prefix_queries=6, prefix_hits=4,
            )  # fmt: skip
            observer.stepped(last)
        expected += last.generated_tokens
        samples = read(metrics)
        assert value(samples, "generation_tokens_total") == expected
        assert value(samples, "prompt_tokens_total") == 7 * (life + 1)
        assert value(samples, "engine_steps_total") == 3 * (life + 1)
        assert value(samples, "num_preemptions_total") == life + 1
        assert value(samples, "prefix_cache_queries_total") == 6 * (life + 1)
        assert value(samples, "prefix_cache_hits_total") == 4 * (life + 1)
        assert value(samples, "engine_restarts_total") == life
        assert value(samples, "num_requests_running") == 2
        assert value(samples, "num_requests_waiting") == 1
        assert value(samples, "kv_cache_usage_perc") == 0.25
        assert value(samples, "engine_up") == 1
        assert any(name == "engine_info" for name, _ in samples)
        observer.gone()
        samples = read(metrics)
        assert value(samples, "generation_tokens_total") == expected
        for name in ("engine_up", "num_requests_running", "kv_cache_usage_perc"):
            assert value(samples, name) == 0
        assert not any(name == "engine_info" for name, _ in samples)


def test_servers_in_one_process_do_not_share() -> None:
    first, observer, _ = make()
    second, _, _ = make()
    observer.loaded(MODEL)
    assert value(read(first), "engine_up") == 1
    assert value(read(second), "engine_up") == 0


def test_infos_say_what_is_served() -> None:
    metrics, observer, _ = make()
    observer.loaded(Opened(100, 64, 4, 16, 32, "all of it"))
    samples = read(metrics)
    assert value(samples, "build_info", version="1.2.3", target="cpu") == 1
    assert value(
        samples, "engine_info", block_size="16", num_blocks="32", max_model_len="64",
        max_num_seqs="4",
    ) == 1  # fmt: skip


def test_a_name_may_hold_anything() -> None:
    metrics = Metrics('a"b\\c\nd')
    families = list(parse_text(metrics.exposition()[1].decode()))
    names = {
        sample.labels["model_name"]
        for family in families
        for sample in family.samples
        if "model_name" in sample.labels
    }
    assert names == {'a"b\\c\nd'}


def test_the_past_is_kept_second_by_second() -> None:
    metrics, observer, clock = make()
    observer.loaded(MODEL)
    for step in range(1, 1001):
        clock.now += 0.25
        observer.stepped(State(running=1, generated_tokens=step))
    assert "history" not in metrics.stats()
    history = metrics.stats(history=True)["history"]
    assert len(history) == 120
    assert [b["now_s"] - a["now_s"] for a, b in itertools.pairwise(history)] == [1.0] * 119
    drawn = [one["numbers"]["generation_tokens"] for one in history]
    assert [b - a for a, b in itertools.pairwise(drawn)] == [4] * 119
    clock.now += 60
    assert 59 <= len(metrics.stats(history=True)["history"]) <= 60
    clock.now += 6000
    assert metrics.stats(history=True)["history"] == []


def test_stats_are_what_the_page_shows() -> None:
    metrics, observer, clock = make()
    assert metrics.stats()["engine"] is None
    assert metrics.stats()["latencies_ms"]["itl"] is None
    observer.loaded(MODEL)
    observer.stepped(State(running=3, used_blocks=8))
    record = observer.arrived("POST")
    generation = record.asked(2)
    for step in range(1, 101):
        generation.parts([Part("r", 0, (1,))])
        clock.now += step / 1000.0
    generation.finished(["stop"])
    observer.ended(record)
    refused = observer.arrived("POST")
    refused.refused(429, "full")
    observer.ended(refused)
    stats = json.loads(json.dumps(metrics.stats()))
    assert stats["model"] == "tiny"
    assert stats["numbers"]["num_requests_running"] == 3
    assert stats["numbers"]["kv_cache_usage_perc"] == 0.25
    assert stats["engine"] == {
        "used_blocks": 8, "block_size": 16, "num_blocks": 32, "max_model_len": 64,
        "max_num_seqs": 4, "memory": "all of it",
    }  # fmt: skip
    assert stats["ended"] == {"stop": 1}
    assert stats["refused"] == {"429": 1}
    itl = stats["latencies_ms"]["itl"]
    assert itl["count"] == 99
    assert [itl["p50"], itl["p90"], itl["p99"]] == pytest.approx([50.0, 90.0, 99.0])

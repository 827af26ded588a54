"""The table of metrics keeps Prometheus' rules."""

from __future__ import annotations

import re

import pytest

from graphopt.runtime.server.metric_table import METRICS, exported_name


@pytest.mark.parametrize("name", METRICS)
def test_names_and_sentences(name: str) -> None:
    metric = METRICS[name]
    assert re.fullmatch(r"[a-z][a-z0-9_]*[a-z0-9]", name)
    assert not name.endswith(("_total", "_info", "_count", "_sum", "_bucket"))
    assert metric.help[0].isupper() or metric.help[0].isdigit()
    assert metric.help.endswith(".")
    assert "|" not in metric.help


@pytest.mark.parametrize("name", METRICS)
def test_buckets_rise_and_are_few(name: str) -> None:
    metric = METRICS[name]
    assert bool(metric.bounds) == (metric.kind == "histogram")
    assert list(metric.bounds) == sorted(set(metric.bounds))
    assert len(metric.bounds) <= 20


def test_suffixes_are_those_of_prometheus() -> None:
    assert exported_name("prompt_tokens") == "graphopt:prompt_tokens_total"
    assert exported_name("build") == "graphopt:build_info"
    assert exported_name("num_requests_running") == "graphopt:num_requests_running"

"""docs/metrics.md says what the table of metrics says."""

import re

from graphopt.runtime.server.metric_table import METRICS, exported_name
from tools.metrics_page import PAGE, QUERIES, page


def test_the_page_is_current() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run: python -m tools.metrics_page"


def test_every_metric_has_a_row_and_every_histogram_its_buckets() -> None:
    table, _, rest = page().partition("## Buckets")
    rows = [line for line in table.splitlines() if line.startswith("| `graphopt:")]
    assert [row.split("`")[1] for row in rows] == [exported_name(name) for name in METRICS]
    buckets = rest.partition("## Queries")[0]
    for name, metric in METRICS.items():
        assert (f"`{name}`" in buckets) == (metric.kind == "histogram")


def test_queries_name_metrics_that_exist() -> None:
    known = {exported_name(name) for name in METRICS}
    for query in QUERIES.values():
        named = re.findall(r"graphopt:\w+", query)
        assert named
        assert {name.removesuffix("_bucket") for name in named} <= known

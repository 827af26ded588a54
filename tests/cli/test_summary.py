"""An artifact's facts are counted right."""

from __future__ import annotations

import pytest

from graphopt.artifact import Artifact
from graphopt.cli.summary import (
    buffer_bytes,
    compile_rows,
    inspect_rows,
    ledger_rows,
    plan_lines,
    summarize,
)
from graphopt.ledger import Ledger, accept, refuse
from tests.cli.fake_api import FakeAPI
from tests.test_plan import small_plan


@pytest.fixture
def artifact(fake: FakeAPI) -> Artifact:
    return fake.artifact()


def test_buffers_grow_with_the_step() -> None:
    # slots of 8 T, 16 T + 3 and 4 bytes
    assert [buffer_bytes(small_plan(), tokens) for tokens in (1, 2, 100)] == [31, 55, 2407]


def test_summary(artifact: Artifact) -> None:
    found = summarize(artifact)
    assert found["parameters"] == 12
    assert found["kv_bytes_per_token"] == 112
    assert found["weight_bytes"] == artifact.weight_bytes
    assert found["total_bytes"] > found["weight_bytes"]
    assert found["notes"] == ["a note"]


def test_rows_show_notes(artifact: Artifact) -> None:
    summary = {**summarize(artifact), "seconds": 1.25}
    assert ("note", "a note") in compile_rows(summary)
    assert ("note", "a note") in inspect_rows(summary)
    assert ("time", "1.2 s") in compile_rows(summary)


def test_equal_decisions_are_counted_together() -> None:
    ledger = Ledger()
    ledger.record("fuse", "layer 0", accept("it fits", saves_bytes=1024))
    ledger.record("fuse", "layer 1", refuse("it does not", "%3"))
    ledger.record("fuse", "layer 2", accept("it fits", saves_bytes=512))
    ledger.record("fold", "layer 2", accept("it fits"))
    assert ledger_rows(ledger.entries) == [
        ("fuse", "applied", 2, "1.5 KiB", "it fits", "layer 0"),
        ("fuse", "refused", 1, "", "it does not", "layer 1"),
        ("fold", "applied", 1, "", "it fits", "layer 2"),
    ]


def test_plan_lines_number_steps_through_all_pieces() -> None:
    steps = [line.split()[0] for line in plan_lines(small_plan()) if line.startswith("    ")]
    assert steps == ["0", "1"]

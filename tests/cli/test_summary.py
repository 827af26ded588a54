"""An artifact's facts are counted right."""

from __future__ import annotations

import pytest

from graphopt.artifact import Artifact
from graphopt.cli.summary import (
    buffer_bytes,
    chosen_entries,
    compile_rows,
    each_row,
    inspect_rows,
    ledger_rows,
    plan_lines,
    summarize,
    total_rows,
)
from graphopt.embedding import Dense, Embedding
from graphopt.errors import UsageError
from graphopt.ledger import Ledger, accept, refuse
from graphopt.runtime import preflight
from tests.cli.fake_api import FakeAPI
from tests.test_plan import small_plan


@pytest.fixture
def artifact(fake: FakeAPI) -> Artifact:
    return fake.artifact()


def test_buffers_grow_with_the_step() -> None:
    # of 16 T + 3 bytes, 4 bytes and scratch of 2 T, each rounded up to 64
    assert [buffer_bytes(small_plan(), tokens) for tokens in (1, 2, 100)] == [192, 192, 1984]


def test_memory_as_serving_would_take_it(
    artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "free_memory_bytes", lambda: 1 << 20)
    found = summarize(artifact)
    parts = {row["part"]: row["bytes"] for row in found["memory"]["parts"]}
    assert parts["weights"] == artifact.weight_bytes
    assert parts["free"] == 1 << 20
    assert parts["KV"] == (1 << 18) // (112 * 16) * 112 * 16
    assert found["memory"]["advice"] is None
    monkeypatch.setattr(preflight, "free_memory_bytes", lambda: 15_000)
    found = summarize(artifact)
    assert found["memory"]["advice"].startswith("lower max_num_batched_tokens to ")
    (text,) = (text for label, text in inspect_rows(found) if label == "memory")
    lines = str(text).splitlines()
    assert [line.split()[0] for line in lines[:3]] == ["weights", "slots", "KV"]
    assert lines[1].endswith("a step of 1024 tokens, 32 sequences")
    assert lines[-1] == f"does not fit: {found['memory']['advice']}"


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


def test_what_a_text_becomes(artifact: Artifact) -> None:
    summary = summarize(artifact)
    assert summary["embedding"] is None
    assert "embeds" not in dict(inspect_rows(summary))
    layers = (Dense("w", "", 64, 24, "tanh"),)
    made = Embedding(64, "weighted_mean", normalize=True, whole=True, dense=layers)
    rows = dict(inspect_rows({**summary, "embedding": made.to_json()}))
    assert rows["embeds"] == (
        "24 numbers a text, rows pooled by weighted mean, 1 dense layer, of length 1"
    )


def test_kernels_and_what_they_took(artifact: Artifact) -> None:
    summary = {**summarize(artifact), "seconds": 1.25}
    assert (summary["kernels"], summary["isas"]) == (0, [])
    assert ("kernels", "none, as PyTorch runs every step") in inspect_rows(summary)
    summary |= {"kernels": 3, "isas": ["avx512", "avx2"], "stages_ms": None}  # taken as it was
    assert ("kernels", "3 for avx512, avx2") in compile_rows(summary)
    summary["stages_ms"] = {"tracing": 9.0, "native": 2540.0}
    assert ("kernels", "3 for avx512, avx2, compiled in 2.5 s") in compile_rows(summary)


@pytest.fixture
def ledger() -> Ledger:
    ledger = Ledger()
    ledger.record("fuse", "%1 layers.0", accept("it fits", saves_bytes=1024))
    ledger.record("fuse", "%2 layers.1", refuse("it does not", "%3"))
    ledger.record("fuse", "%9 layers.2", accept("it fits", saves_bytes=512))
    ledger.record("fold", "%9 norm", accept("it fits"))
    return ledger


def test_equal_decisions_are_one_row(ledger: Ledger) -> None:
    assert ledger_rows(ledger.entries) == [
        ("fuse", "layers.0, 2", "applied", 2, "1.5 KiB", "it fits"),
        ("fuse", "%2 layers.1", "refused", 1, "", "it does not"),
        ("fold", "%9 norm", "applied", 1, "", "it fits"),
    ]


def test_each_decision_names_the_culprits(ledger: Ledger) -> None:
    assert each_row(ledger.entries)[1] == ("fuse", "%2 layers.1", "refused", "", "it does not: %3")


def test_totals(ledger: Ledger) -> None:
    assert total_rows(ledger.entries) == [("fuse", 2, 1, "1.5 KiB"), ("fold", 1, 0, "")]


def test_decisions_are_chosen(ledger: Ledger) -> None:
    entries = ledger.entries
    assert chosen_entries(entries) == entries
    assert chosen_entries(entries, refused=True) == [entries[1]]
    assert chosen_entries(entries, rule="fold") == [entries[3]]
    assert chosen_entries(entries, rule="fold", refused=True) == []
    with pytest.raises(UsageError, match="no such rule"):
        chosen_entries(entries, rule="absent")


def test_plan_lines_number_steps_through_all_pieces() -> None:
    steps = [line.split()[0] for line in plan_lines(small_plan()) if line.startswith("    ")]
    assert steps == ["0", "1"]

"""Tables say what was measured, and who was absent; everything is kept."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table

from benchmarks import harness
from benchmarks.peers import report
from benchmarks.peers.rounds import Sample, Timing, rows_of
from benchmarks.peers.session import Entrant
from benchmarks.rates import Reading

QUIET = Reading(30e9, {"bf16": 4e11})


def sample(engine: str, seconds: float, rejected: str = "", number: int = 0) -> Sample:
    timing = Timing(seconds, 10)
    return Sample(engine, "bf16", "decode", number, timing, QUIET, QUIET, 0.0, 0.4, rejected)


SAMPLES = [
    sample("graphopt", 0.5),
    sample("slow", 1.0),
    sample("graphopt", 0.8, number=1),
    sample("slow", 1.0, number=1),
    sample("noisy", 1.0, "disturbed"),
]
ENTRANTS = [
    Entrant("graphopt", "bf16", "", 10**9, {"graphopt": "0.1"}, 0.1, 0.2, [1, 2], 2 * 10**9),
    Entrant("gone", "bf16", "its environment is not installed"),
]


def text_of(table: Table) -> str:
    stream = io.StringIO()
    Console(file=stream, width=report.WIDTH).print(table)
    return stream.getvalue()


def test_figures() -> None:
    found = {"median": 2.0, "min": 1.0, "max": 4.0}
    assert report.figure(found, ".1f") == "2.0 (1.0-4.0)"
    assert report.figure(found, ".0f", 100.0) == "200 (100-400)"
    assert report.seconds(found) == "0.50 (0.25-1.00)"
    assert report.figure(None, ".1f") == report.seconds(None) == "-"


def test_the_speed_table() -> None:
    text = text_of(report.speed_table(rows_of(SAMPLES), "decode", "tokens"))
    lines = {line.split("│")[2].strip(): line for line in text.splitlines() if "bf16" in line}
    assert "16.2 (12.5-20.0)" in lines["graphopt"]
    assert "65 (50-80)" in lines["graphopt"]
    assert "1.62 (1.25-2.00)" in lines["slow"]
    assert "0, 1 rejected" in lines["noisy"]
    assert "bf16" not in text_of(report.speed_table(rows_of(SAMPLES), "prefill", "tokens"))


def test_the_absent_are_listed() -> None:
    text = text_of(report.entrant_table(ENTRANTS))
    assert "graphopt 0.1" in text
    assert "2/2" in text
    assert "absent: its environment is not installed" in " ".join(text.replace("│", "").split())


def test_every_sample_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "RESULTS", tmp_path)
    path = report.write("decode", {"threads": 2}, ENTRANTS, rows_of(SAMPLES), SAMPLES)
    kept = json.loads(path.read_text())
    assert kept["machine"]["cores"]
    rows = kept["rows"]
    assert rows["settings"] == {"threads": 2}
    assert len(rows["samples"]) == len(SAMPLES)
    assert rows["samples"][4]["rejected"] == "disturbed"
    assert rows["samples"][0]["before"]["read_bytes_s"] == 30e9
    assert rows["engines"][1]["absent"] == "its environment is not installed"

"""Benchmarks measure the process they start, and nothing of their own."""

from __future__ import annotations

import pytest

from benchmarks.harness import PRINT_PEAK, machine, run_python, summary


def test_a_run_has_its_own_peak_and_output() -> None:
    ballast = bytearray(200_000_000)
    run = run_python("print('hello')" + PRINT_PEAK)
    assert run.output == "hello"
    assert 1_000_000 < run.peak_bytes < 100_000_000 < len(ballast)
    assert run.seconds > 0


def test_a_failing_program_is_an_error_with_its_message() -> None:
    with pytest.raises(RuntimeError, match="no such thing"):
        run_python("raise SystemExit('no such thing')")


def test_summary_keeps_every_sample() -> None:
    found = summary([3.0, 1.0, 2.0])
    assert (found["median"], found["min"], found["max"]) == (2.0, 1.0, 3.0)
    assert found["samples"] == [3.0, 1.0, 2.0]


def test_the_machine_is_described() -> None:
    found = machine()
    assert found["cores"]
    assert found["versions"]["torch"] != "absent"

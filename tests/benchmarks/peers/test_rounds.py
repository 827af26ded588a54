"""Rounds reject what was disturbed, repeat it, and compare engines within a round."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import cast

import pytest

from benchmarks.peers import rounds
from benchmarks.peers.rounds import (
    Contender,
    OtherLoad,
    Sample,
    Timing,
    ratios,
    reason_to_reject,
    rows_of,
    take,
)
from benchmarks.rates import Meter, Reading

QUIET = Reading(30e9, {"bf16": 4e11})
FAST = Reading(60e9, {"bf16": 4e11})


class ScriptedMeter:
    """Gives readings one after the other, the last one for ever."""

    def __init__(self, *readings: Reading) -> None:
        self.readings: Iterator[Reading] = iter(readings)
        self.last = QUIET

    def read(self) -> Reading:
        self.last = next(self.readings, self.last)
        return self.last


def meter(*readings: Reading) -> Meter:
    return cast(Meter, ScriptedMeter(*readings))


def contender(engine: str, order: list[str], seconds: float | None = 0.5) -> Contender:
    def run(number: int) -> Timing | None:
        order.append(f"{engine} {number}")
        return None if seconds is None else Timing(seconds, 10)

    return Contender(engine, "bf16", run, lambda: 0.0, lambda reading: 3e9 / reading.read_bytes_s)


@pytest.fixture(autouse=True)
def _no_other_load(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OtherLoad, "cores", lambda self: 0.0)


def test_reasons() -> None:
    assert reason_to_reject(QUIET, QUIET, 0.05, 1.0) == ""
    assert "30.0 and 60.0 GB/s" in reason_to_reject(QUIET, FAST, 0.0, 1.0)
    assert "0.30 cores" in reason_to_reject(QUIET, QUIET, 0.3, 60.0)
    nearly = replace(QUIET, read_bytes_s=30e9 * 1.14)
    assert reason_to_reject(nearly, QUIET, 0.0, 1.0) == ""
    assert reason_to_reject(QUIET, FAST, 0.0, 60.0) == ""  # it has seen both


def test_engines_take_turns_and_begin_one_later_every_round() -> None:
    order: list[str] = []
    three = [contender(name, order) for name in "abc"]
    samples = take(meter(QUIET), "decode", three, 0) + take(meter(QUIET), "decode", three, 1)
    assert order == ["a 0", "b 0", "c 0", "b 1", "c 1", "a 1"]
    assert all(not one.rejected for one in samples)
    assert samples[0].rate == 20.0
    assert samples[0].of_bound == pytest.approx(0.1 / 0.5)
    assert take(meter(QUIET), "decode", [], 0) == []


def test_a_disturbed_timing_is_taken_again_and_both_are_kept() -> None:
    order: list[str] = []
    samples = take(meter(QUIET, FAST, FAST), "decode", [contender("a", order)], 0)
    assert [bool(one.rejected) for one in samples] == [True, False]
    assert samples[1].bound_s == pytest.approx(0.05)
    flapping = meter(*[QUIET, FAST] * 5)
    assert len(take(flapping, "decode", [contender("a", order)], 0, attempts=3)) == 3


def test_an_engine_that_fails_leaves_no_sample() -> None:
    order: list[str] = []
    two = [contender("a", order, seconds=None), contender("b", order)]
    assert [one.engine for one in take(meter(QUIET), "decode", two, 0)] == ["b"]


def test_ratios_are_of_the_same_round_and_of_what_counts() -> None:
    def sample(engine: str, number: int, seconds: float, rejected: str = "") -> Sample:
        timing = Timing(seconds, 10)
        return Sample(engine, "bf16", "decode", number, timing, QUIET, QUIET, 0.0, 0.1, rejected)

    samples = [
        sample("graphopt", 0, 1.0),
        sample("peer", 0, 2.0),
        sample("graphopt", 1, 2.0),
        sample("peer", 1, 9.0, "disturbed"),
        sample("peer", 2, 1.0),
        sample("graphopt", 2, 2.0),
    ]
    assert ratios(samples, "peer", "bf16", "decode") == [2.0, 0.5]
    assert ratios(samples, "peer", "int8", "decode") == []
    ours, theirs = rows_of(samples)
    assert (ours.engine, ours.ratio, ours.kept) == ("graphopt", None, 3)
    assert (theirs.kept, theirs.rejected) == (2, 1)
    assert theirs.ratio is not None
    assert (theirs.ratio["median"], theirs.ratio["min"]) == (1.25, 0.5)
    assert theirs.read_gb_s is not None
    assert theirs.read_gb_s["median"] == 30.0
    only = rows_of([sample("peer", 0, 1.0, "disturbed")])[0]
    assert (only.rate, only.of_bound, only.kept) == (None, None, 0)
    assert rows_of([]) == []


def test_other_load_leaves_out_this_process_and_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    busy = iter([100.0, 103.0])
    own = os.times()
    monkeypatch.setattr(
        rounds, "busy_cpu_s", lambda: next(busy) + sum(os.times()[:2]) - sum(own[:2])
    )
    engine = iter([10.0, 12.0])
    load = OtherLoad(lambda: next(engine))
    time.sleep(0.1)
    assert 2 < load.cores() < 11  # one second of others in 0.1 s or somewhat more


def test_the_machine_is_busy_more_and_more() -> None:
    before = rounds.busy_cpu_s()
    deadline = time.perf_counter() + 0.1
    while time.perf_counter() < deadline:
        sum(range(1000))
    assert rounds.busy_cpu_s() > before

"""Contenders take turns, in both orders; medians and spreads are those of all samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
import torch

from benchmarks.gpu.clock import HostClock, Timing, measure
from benchmarks.gpu.rates import Rates, measured_rates


class Recorded:
    """A clock that runs nothing and writes down what it was given."""

    def __init__(self) -> None:
        self.orders: list[list[str]] = []

    def seconds(self, contenders: Mapping[str, Callable[[], object]]) -> dict[str, float]:
        self.orders.append(list(contenders))
        return {name: float(len(self.orders)) for name in contenders}


def test_turns() -> None:
    clock = Recorded()
    found = measure(clock, {"a": lambda: None, "b": lambda: None}, 4, warmups=1)
    assert clock.orders == [["a", "b"], ["a", "b"], ["b", "a"], ["a", "b"], ["b", "a"]]
    assert found["a"].samples == found["b"].samples == (2.0, 3.0, 4.0, 5.0)


def test_timing() -> None:
    timing = Timing((1e-6, 2e-6, 3e-6, 4e-6, 5e-6))
    assert timing.median == 3e-6
    assert timing.spread == pytest.approx(1.0)
    assert timing.as_json()["samples_us"] == [1.0, 2.0, 3.0, 4.0, 5.0]
    assert Timing((1.0,)).spread == 0.0


def test_host_clock_runs_what_it_is_given() -> None:
    ran: list[str] = []
    found = HostClock().seconds({"a": lambda: ran.append("a"), "b": lambda: ran.append("b")})
    assert ran == ["a", "b"]
    assert all(seconds >= 0 for seconds in found.values())


def test_rates() -> None:
    found = measured_rates(Recorded(), torch.device("cpu"), 1, copy_bytes=1 << 10, size=8)
    assert found.bytes_per_second == 2048 / 3.0
    assert found.flops_per_second == 2 * 8**3 / 3.0
    rates = Rates(100.0, 1000.0)
    assert rates.least_seconds(50.0, 100.0) == 0.5
    assert rates.least_seconds(5.0, 1000.0) == 1.0

"""Times of things on a GPU, by events, with an L2 cache that holds nothing of theirs.

Contenders take turns, so that what changes with time (clocks, heat, neighbours) meets them all.
Before each run the cache is written over and then read over, so that it holds clean lines of
something else and no write of ours is left for the contender to wait for. Then the device sleeps
while the host enqueues the run: what is measured is the device's time, whatever the launches cost
the host.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

# Bytes that are written, and that are read, between two runs: several times the L2 of any GPU.
FLUSH_BYTES = 256 << 20
# Clock cycles that the device sleeps: half a millisecond, ten launches of a slow host.
SLEEP_CYCLES = 1_000_000


class Clock(Protocol):
    """Measures."""

    def seconds(self, contenders: Mapping[str, Callable[[], object]]) -> dict[str, float]:
        """One run of each, in order."""


class DeviceClock:
    """Events of a GPU."""

    def __init__(self, device: torch.device) -> None:
        count = FLUSH_BYTES // 4
        self._written = torch.empty(count, dtype=torch.int32, device=device)
        self._read = torch.zeros(count, dtype=torch.int32, device=device)

    def seconds(self, contenders: Mapping[str, Callable[[], object]]) -> dict[str, float]:
        """See :class:`Clock`."""
        events = {}
        for name, run in contenders.items():
            self._flush()
            torch.cuda._sleep(SLEEP_CYCLES)  # type: ignore[no-untyped-call]
            start, end = (_event() for _ in range(2))
            start.record()
            run()
            end.record()
            events[name] = (start, end)
        torch.cuda.synchronize()
        return {name: start.elapsed_time(end) / 1e3 for name, (start, end) in events.items()}

    def _flush(self) -> None:
        self._written.zero_()
        self._read.amax()


def _event() -> Any:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]


class HostClock:
    """The host's own time, for a suite that runs without a device."""

    def seconds(self, contenders: Mapping[str, Callable[[], object]]) -> dict[str, float]:
        """See :class:`Clock`."""
        found = {}
        for name, run in contenders.items():
            start = time.perf_counter()
            run()
            found[name] = time.perf_counter() - start
        return found


@dataclass(frozen=True, slots=True)
class Timing:
    """Samples of one contender, in seconds."""

    samples: tuple[float, ...]

    @property
    def median(self) -> float:
        """Of all samples."""
        return statistics.median(self.samples)

    @property
    def spread(self) -> float:
        """The middle half of the samples, as a part of the median."""
        if len(self.samples) < 2 or not self.median:
            return 0.0
        low, _, high = statistics.quantiles(self.samples, n=4)
        return (high - low) / self.median

    def as_json(self) -> dict[str, Any]:
        """For the results."""
        return {
            "median_us": self.median * 1e6,
            "min_us": min(self.samples) * 1e6,
            "max_us": max(self.samples) * 1e6,
            "spread": self.spread,
            "samples_us": [round(sample * 1e6, 3) for sample in self.samples],
        }


def measure(
    clock: Clock, contenders: Mapping[str, Callable[[], object]], rounds: int, warmups: int = 2
) -> dict[str, Timing]:
    """``rounds`` samples of each contender, in turns; every second round in reverse."""
    for _ in range(warmups):
        clock.seconds(contenders)
    samples: dict[str, list[float]] = {name: [] for name in contenders}
    orders: Sequence[dict[str, Callable[[], object]]] = (
        dict(contenders),
        dict(reversed(list(contenders.items()))),
    )
    for number in range(rounds):
        for name, seconds in clock.seconds(orders[number % 2]).items():
            samples[name].append(seconds)
    return {name: Timing(tuple(found)) for name, found in samples.items()}

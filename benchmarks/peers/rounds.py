"""Timings that are taken in rounds, each between two readings of the machine, and what they give.

In every round each engine is timed once, one after the other, and begins one place later than in
the round before. A timing counts only if the read rate before and after it agrees and nothing else
kept the cores busy; else it is repeated, and kept with the reason why it does not count. Engines
are compared within a round, where the machine was most alike.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import psutil

from benchmarks.harness import summary
from benchmarks.peers.catalogue import US
from benchmarks.rates import Meter, Reading, mean, spread

MAX_SPREAD = 0.15  # of the read rate, from before a timing to after it
MAX_OTHER_CORES = 0.1
# A machine whose read rate has two states changes between them within some seconds. A timing that
# takes longer has seen both, whatever the readings around it say, and their mean stands for it.
LONG_S = 5.0
ATTEMPTS = 4


@dataclass(frozen=True, slots=True)
class Timing:
    """What an engine says of one run.

    Attributes:
        seconds: how long it took.
        tokens: how many tokens that made or computed.
    """

    seconds: float
    tokens: int


@dataclass(frozen=True, slots=True)
class Sample:
    """A timing and what the machine could do around it.

    Attributes:
        engine: its name.
        precision: of its weights.
        phase: what was timed.
        round: number of the round.
        timing: what the engine says.
        before: a reading right before it.
        after: a reading right after it.
        other_cores: cores that other processes kept busy meanwhile.
        bound_s: least seconds that the work can take, by the mean of both readings.
        rejected: why it does not count; empty if it does.
    """

    engine: str
    precision: str
    phase: str
    round: int
    timing: Timing
    before: Reading
    after: Reading
    other_cores: float
    bound_s: float
    rejected: str

    @property
    def rate(self) -> float:
        """Tokens in a second."""
        return self.timing.tokens / self.timing.seconds

    @property
    def of_bound(self) -> float:
        """Which part of the least time is of the time it took."""
        return self.bound_s / self.timing.seconds


@dataclass(frozen=True, slots=True)
class Contender:
    """One engine in a phase.

    Attributes:
        engine: its name.
        precision: of its weights.
        run: takes a timing, for a round; None if the engine failed.
        cpu_s: seconds of all cores that its process has used.
        bound_s: least seconds of the work when the machine is as a reading says.
    """

    engine: str
    precision: str
    run: Callable[[int], Timing | None]
    cpu_s: Callable[[], float]
    bound_s: Callable[[Reading], float]


class OtherLoad:
    """How many cores processes other than this one and an engine's keep busy."""

    def __init__(self, cpu_s: Callable[[], float]) -> None:
        self._cpu_s = cpu_s
        self._start = self._now()

    def cores(self) -> float:
        """Since this was made."""
        now_s, foreign_s = self._now()
        return max(0.0, foreign_s - self._start[1]) / max(now_s - self._start[0], 1e-9)

    def _now(self) -> tuple[float, float]:
        own = psutil.Process().cpu_times()
        foreign = busy_cpu_s() - self._cpu_s() - own.user - own.system
        return time.perf_counter(), foreign


def busy_cpu_s() -> float:
    """Seconds that all cores were busy since the machine started, stolen ones among them."""
    times = psutil.cpu_times()._asdict()
    # A guest's time is in user already.
    idle = ("idle", "iowait", "guest", "guest_nice")
    return float(sum(value for name, value in times.items() if name not in idle))


def reason_to_reject(before: Reading, after: Reading, other_cores: float, seconds: float) -> str:
    """Why a timing of so many seconds between two readings does not count; empty if it does."""
    if seconds < LONG_S and spread(before, after) > MAX_SPREAD:
        rates = f"{before.read_bytes_s / 1e9:.1f} and {after.read_bytes_s / 1e9:.1f} GB/s"
        return f"the read rate before and after differs: {rates}"
    if other_cores > MAX_OTHER_CORES:
        return f"other processes kept {other_cores:.2f} cores busy"
    return ""


def take(
    meter: Meter,
    phase: str,
    contenders: Sequence[Contender],
    number: int,
    attempts: int = ATTEMPTS,
) -> list[Sample]:
    """One round of a phase.

    Args:
        meter: reads what the machine can do.
        phase: what is timed.
        contenders: whose turn it is, one after the other.
        number: of the round.
        attempts: how often a timing that does not count is taken, in all.
    """
    if not contenders:
        return []
    first = number % len(contenders)
    samples = []
    before = meter.read()
    for contender in [*contenders[first:], *contenders[:first]]:
        for _ in range(attempts):
            load = OtherLoad(contender.cpu_s)
            timing = contender.run(number)
            if timing is None:
                break
            other_cores = load.cores()
            after = meter.read()
            sample = Sample(
                contender.engine,
                contender.precision,
                phase,
                number,
                timing,
                before,
                after,
                other_cores,
                contender.bound_s(mean(before, after)),
                reason_to_reject(before, after, other_cores, timing.seconds),
            )
            samples.append(sample)
            before = after
            if not sample.rejected:
                break
    return samples


def ratios(samples: Iterable[Sample], engine: str, precision: str, phase: str) -> list[float]:
    """How many times as fast graphopt was as `engine`, in every round where both count."""
    ours: dict[int, float] = {}
    theirs: dict[int, float] = {}
    for one in samples:
        if one.rejected or (one.precision, one.phase) != (precision, phase):
            continue
        if one.engine == US:
            ours[one.round] = one.rate
        if one.engine == engine:
            theirs[one.round] = one.rate
    return [ours[number] / theirs[number] for number in sorted(ours.keys() & theirs.keys())]


@dataclass(frozen=True, slots=True)
class Row:
    """What the samples of one engine in one phase come to.

    Attributes:
        engine: its name.
        precision: of its weights.
        phase: what was timed.
        kept: samples that count.
        rejected: samples that do not.
        rate: tokens in a second: median, min, max and all; None if no sample counts.
        of_bound: parts of the bound, in the same way.
        read_gb_s: read rates around the samples, in the same way.
        ratio: graphopt's rate over this one's, by round, in the same way; None for graphopt.
    """

    engine: str
    precision: str
    phase: str
    kept: int
    rejected: int
    rate: dict[str, Any] | None
    of_bound: dict[str, Any] | None
    read_gb_s: dict[str, Any] | None
    ratio: dict[str, Any] | None

    def to_json(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


def rows_of(samples: Sequence[Sample]) -> list[Row]:
    """One row for each phase, precision and engine, in the order in which they were first seen."""
    rows = []
    keys = dict.fromkeys((one.phase, one.precision, one.engine) for one in samples)
    for phase, precision, engine in sorted(keys, key=_phase_order(samples)):
        mine = [
            one
            for one in samples
            if (one.phase, one.precision, one.engine) == (phase, precision, engine)
        ]
        kept = [one for one in mine if not one.rejected]
        reads = [x.read_bytes_s / 1e9 for one in kept for x in (one.before, one.after)]
        pairs = [] if engine == US else ratios(samples, engine, precision, phase)
        rows.append(
            Row(
                engine,
                precision,
                phase,
                len(kept),
                len(mine) - len(kept),
                _summary([one.rate for one in kept]),
                _summary([one.of_bound for one in kept]),
                _summary(reads),
                _summary(pairs),
            )
        )
    return rows


def _phase_order(samples: Sequence[Sample]) -> Callable[[tuple[str, str, str]], tuple[int, ...]]:
    """Sorts by phase, then precision, then engine, each as first seen."""
    seen = [list(dict.fromkeys(names)) for names in zip(*map(_names, samples), strict=True)]
    return lambda key: tuple(names.index(name) for names, name in zip(seen, key, strict=True))


def _names(sample: Sample) -> tuple[str, str, str]:
    return sample.phase, sample.precision, sample.engine


def _summary(values: Sequence[float]) -> dict[str, Any] | None:
    return summary(values) if values else None

"""Captured launches: made at the start or when they are needed, checked before they first run.

before:  a choice of ``graphopt.runtime.dispatch``: a mode, and padded sizes
after:   the graphs to replay, by name; none where plain launches have to do

Of each mode the largest size is captured first: it shows whether there is memory for graphs at all,
and every smaller batch can be padded to it. A size that cannot be captured is given up with a
reason, and where memory is the matter all that are not captured yet: what a size takes is known
from the plan before, and seen after. A graph holds addresses, so those that it was captured with
are compared with those that are right now.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from graphopt.errors import DeviceLostError, DisagreementError, GraphoptError, MachineError
from graphopt.progress import ProgressFn

from ...capture_plan import CapturePlan
from ...dispatch import BatchShape, Choice, Mode, dispatch
from .device import Device, DeviceMemoryError, Graph

Launches = Callable[[], None]
Addresses = Callable[[], Mapping[str, int]]
# What is captured in a mode at some sizes: names, and what launches each.
Record = Callable[[Mode, Mapping[str, int]], Iterable[tuple[str, Launches]]]


@dataclass(slots=True)
class _Captured:
    """Graphs of one size.

    Attributes:
        graphs: by name.
        addresses: what they were captured with.
        nbytes: how much less memory was free once they were there: the driver takes it in steps.
        checked: whether these were found to be right.
    """

    graphs: Mapping[str, Graph]
    addresses: Mapping[str, int]
    nbytes: int
    checked: bool = False


class Captures:
    """The graphs of one executor.

    Args:
        device: captures and holds them.
        plan: what is to be captured.
        record: launches what is captured.
        addresses: where everything is now, by what it is.
        simplify: called where a whole step is refused; whether less is recorded of it from now on.

    Attributes:
        plan: what is captured or still may be; each size that was given up has its reason.
        took_s: how long capturing all at once took.
    """

    def __init__(
        self,
        device: Device,
        plan: CapturePlan,
        record: Record,
        addresses: Addresses,
        simplify: Callable[[], bool] = lambda: False,
    ) -> None:
        self.plan = plan
        self.took_s = 0.0
        self._device = device
        self._record = record
        self._addresses = addresses
        self._simplify = simplify
        self._made: dict[tuple[Mode, int], _Captured] = {}

    @property
    def measured(self) -> CapturePlan:
        """The plan with what the graphs were seen to take."""
        found: dict[Mode, dict[int, int]] = {Mode.WHOLE: {}, Mode.PIECES: {}}
        for (mode, size), captured in self._made.items():
            found[mode][size] = captured.nbytes
        return self.plan.measured(found[Mode.WHOLE], found[Mode.PIECES])

    def choose(self, shape: BatchShape) -> Choice:
        """How a batch runs."""
        return dispatch(shape, self.plan)

    def graphs(self, choice: Choice) -> Mapping[str, Graph]:
        """What to replay, by name.

        Raises:
            DisagreementError: something lies elsewhere than when it was captured.
        """
        if choice.mode is Mode.PLAIN:
            return {}
        key = (choice.mode, choice.sizes["T"])
        if key not in self._made:
            self._make(choice)
        captured = self._made.get(key)
        if captured is None:
            return {}
        if not captured.checked:
            _compare(key, captured.addresses, self._addresses())
            captured.checked = True
        return captured.graphs

    def make_all(self, report: ProgressFn) -> None:
        """Capture all sizes now, whole steps before pieces and of each the largest first.

        Args:
            report: told how far it is; in the end how long it took, and what was given up.
        """
        modes = (Mode.WHOLE, Mode.PIECES)
        wanted = [(mode, size) for mode in modes for size in reversed(self._sizes(mode))]
        if not wanted:
            return
        said, start_s = len(self.plan.reasons), time.monotonic()
        for number, (mode, size) in enumerate(wanted):
            report("capturing", number, len(wanted))
            if size in self._sizes(mode) and (mode, size) not in self._made:
                self._capture(mode, size, {"R": 1, "S": 1, "P": 1})
        self._device.synchronize()  # what graphs are made of is there before the first step
        report("capturing", len(wanted), len(wanted))
        self.took_s = time.monotonic() - start_s
        counts = f"{len(self._made)} of {len(wanted)} sizes captured in {self.took_s:.1f} s"
        for sentence in (counts, *self.measured.reasons[said:]):
            report(sentence, 0, 0)

    def drop(self) -> None:
        """Give all graphs back; they are captured again when they are needed."""
        made, self._made = self._made, {}
        for captured in made.values():
            self._release(captured.graphs)

    def _make(self, choice: Choice) -> None:
        """Capture the largest size of a mode, unless it is there, and the one that is needed."""
        for size in sorted({self._sizes(choice.mode)[-1], choice.sizes["T"]}, reverse=True):
            if (choice.mode, size) in self._made or size not in self._sizes(choice.mode):
                continue
            self._capture(choice.mode, size, choice.sizes)

    def _sizes(self, mode: Mode) -> tuple[int, ...]:
        return self.plan.decode_sizes if mode is Mode.WHOLE else self.plan.piece_sizes

    def _capture(self, mode: Mode, size: int, like: Mapping[str, int]) -> None:
        sizes = self._sizes_at(mode, size, like)
        try:
            before = self._demand_memory(mode, size)
            graphs = self._graphs(mode, sizes)
        except DeviceLostError:
            raise
        except GraphoptError as error:
            self._give_up(mode, size, error)
        else:
            taken = before - self._device.memory()[0]
            self._made[mode, size] = _Captured(graphs, dict(self._addresses()), max(0, taken))

    def _graphs(self, mode: Mode, sizes: Mapping[str, int]) -> Mapping[str, Graph]:
        """All graphs of a size, or none.

        Raises:
            MachineError: the device refuses one, also where less is recorded.
        """
        graphs: dict[str, Graph] = {}
        try:
            for name, launch in self._record(mode, sizes):
                with self._device.capture() as graph:
                    launch()
                graphs[name] = graph()
        except DeviceLostError:
            raise
        except GraphoptError as error:
            self._release(graphs)
            refused = isinstance(error, MachineError) and not isinstance(error, DeviceMemoryError)
            if refused and mode is Mode.WHOLE and self._simplify():
                return self._graphs(mode, sizes)
            raise
        return graphs

    def _demand_memory(self, mode: Mode, size: int) -> int:
        """Demand that there is as much memory as a size is expected to take; so much is free.

        Raises:
            DeviceMemoryError: there is not.
        """
        plan = self.plan
        planned = plan.decode_bytes if mode is Mode.WHOLE else plan.piece_bytes
        expected = planned[self._sizes(mode).index(size)]
        free, _ = self._device.memory()
        if free < expected:
            raise DeviceMemoryError(
                "the GPU has no memory for captured launches",
                got=f"{free:,} bytes free of {expected:,} that they are expected to take",
            )
        return free

    def _sizes_at(self, mode: Mode, size: int, like: Mapping[str, int]) -> Mapping[str, int]:
        """Sizes of a capture; what is captured of pieces depends on T alone."""
        return self.plan.decode_sizes_at(size) if mode is Mode.WHOLE else {**like, "T": size}

    def _give_up(self, mode: Mode, size: int, error: GraphoptError) -> None:
        """Plan without a size, or without all that would take more memory."""
        kept = set(self._made)
        what = "whole steps" if mode is Mode.WHOLE else "pieces"
        why = f"{error.what}: {error.got}" if error.got is not None else error.what
        if isinstance(error, DeviceMemoryError):
            rest = "no more is captured"
        else:
            rest = "they are launched plainly"
            both = ((Mode.WHOLE, self.plan.decode_sizes), (Mode.PIECES, self.plan.piece_sizes))
            kept = {(one, count) for one, sizes in both for count in sizes} - {(mode, size)}
        self.plan = self.plan.keeping(
            [count for one, count in kept if one is Mode.WHOLE],
            [count for one, count in kept if one is Mode.PIECES],
            f"{what} of {size} tokens are not captured, and {rest}: {why}",
        )

    def _release(self, graphs: Mapping[str, Graph]) -> None:
        for graph in graphs.values():
            self._device.release(graph)


def _compare(key: tuple[Mode, int], captured: Mapping[str, int], live: Mapping[str, int]) -> None:
    """Demand that everything lies where it was captured.

    Raises:
        DisagreementError: it does not; what moved is named.
    """
    for name in [*captured, *(name for name in live if name not in captured)]:
        if captured.get(name) != live.get(name):
            mode, size = key
            raise DisagreementError(
                "a captured graph would use memory that is no longer there",
                where=f"{name}, in {mode.value} of {size} tokens",
                got=_place(captured.get(name)),
                expected=_place(live.get(name)),
                next="report this: what a graph uses has to stay where it is",
            )


def _place(address: int | None) -> str:
    return "nothing" if address is None else hex(address)

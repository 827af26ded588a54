"""A step that does not end becomes an error that names the piece that hangs.

before:  a device that is waited for, at most so many seconds
after:   what came of a step; or which piece it was in when the device stopped answering

Nothing is done for a captured decode, which is one launch: if it hangs, it is what hangs. Other
steps let the stream say where it is before each piece, which costs the host one call of the driver.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

from graphopt.errors import DeviceLostError

from ..dispatch import BatchShape
from .device import Device, DeviceHangError

T = TypeVar("T")


@dataclass(slots=True)
class Started:
    """A step that was given to the device.

    Attributes:
        shape: its sizes.
        is_captured: whether it is one graph.
        pieces: names of what it was given in, each with a mark that is reached when it begins.
    """

    shape: BatchShape
    is_captured: bool = False
    pieces: list[tuple[int, str]] = field(default_factory=list)

    def hanging(self, reached: int) -> str:
        """What the device was at when it had reached a mark."""
        shape = self.shape
        if self.is_captured:
            return f"the captured decode of {shape.sequences} sequences"
        step = f"a step of {shape.tokens} tokens in {shape.sequences} sequences"
        begun = [name for number, name in self.pieces if number <= reached]
        return f"{begun[-1]} of {step}" if begun else f"what is before the first piece of {step}"


class Watchdog:
    """Watches the steps of one executor.

    Args:
        device: where they run.
        seconds: how long one may take from when it is waited for; 0 for as long as it likes.
    """

    def __init__(self, device: Device, seconds: float) -> None:
        self._device = device
        self._seconds = seconds
        self._marks = 0
        self._flying: deque[Started] = deque()
        self._lost: DeviceLostError | None = None
        device.watch(seconds)

    def begin(self, shape: BatchShape) -> Started:
        """A step is given to the device.

        Raises:
            DeviceLostError: an earlier one hangs.
        """
        self._demand_answers()
        return Started(shape)

    @contextmanager
    def giving(self, started: Started) -> Iterator[None]:
        """Within it a step is given to the device, which then has to do it.

        Raises:
            DeviceLostError: the device had to be waited for, and hangs; where is named.
        """
        try:
            yield
        except DeviceHangError as error:
            first = self._flying[0] if self._flying else started
            raise self._named(first, error) from error
        self._flying.append(started)

    def piece(self, started: Started, name: str) -> None:
        """The next piece of a step is given to the device."""
        if self._seconds:
            self._marks += 1
            self._device.mark(self._marks)
            started.pieces.append((self._marks, name))

    def land(self, started: Started, answer: Callable[[], T]) -> T:
        """Wait for the step that was given first and has not landed.

        Raises:
            DeviceLostError: it hangs, or one before it; what hangs is named.
        """
        self._demand_answers()
        self._flying.popleft()
        try:
            return answer()
        except DeviceHangError as error:
            raise self._named(started, error) from error

    def _named(self, started: Started, error: DeviceHangError) -> DeviceLostError:
        self._lost = DeviceLostError(
            "a step on the GPU does not end",
            where=started.hanging(error.reached),
            got=f"no answer for {self._seconds:g} seconds",
            expected="a step's results",
            next="start again; if it hangs there again, report it with the artifact's ledger. "
            "Steps that may take longer need a larger --watchdog-seconds; 0 waits for ever",
        )
        return self._lost

    def _demand_answers(self) -> None:
        if self._lost is not None:
            raise DeviceLostError(
                "the GPU has not answered since a step before",
                where=self._lost.where,
                got=self._lost.got,
                next="start again",
            )

"""A step that does not end becomes an error that names the piece that hangs.

before:  a device that is waited for, at most so many seconds
after:   what came of a step; or which piece it was in when the device stopped answering

The device leaves a mark before each piece. In a captured decode marks are nodes of the graph that
no kernel waits for, so a replay is still one launch; of other steps each is one call of the driver.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from graphopt.errors import DeviceLostError, MachineError

from ...dispatch import BatchShape
from .device import MOST_MARKS, Device, DeviceHangError

T = TypeVar("T")
# Marks by their number, with the name of what begins there.
Pieces = dict[int, str]
# What comes after the last piece of a captured decode.
AFTER = "what follows the last piece"


@dataclass(slots=True)
class Started:
    """A step that was given to the device.

    Attributes:
        shape: its sizes.
        is_captured: whether it is one graph.
        pieces: names of what it was given in, by the mark that is reached when each begins.
    """

    shape: BatchShape
    is_captured: bool = False
    pieces: Pieces = field(default_factory=dict)

    def hanging(self, reached: int) -> str:
        """What the device was at when it had reached a mark."""
        shape = self.shape
        if self.is_captured:
            step = f"the captured decode of {shape.sequences} sequences"
        else:
            step = f"a step of {shape.tokens} tokens in {shape.sequences} sequences"
        if not self.pieces:
            return step
        return f"{self.pieces.get(reached, 'what is before the first piece')} of {step}"


class Watchdog:
    """Watches the steps of one executor.

    Args:
        device: where they run.
        seconds: how long one may take from when it is waited for; 0 for as long as it likes.
        marks_captures: whether marks are left in captured decodes, too.
    """

    def __init__(self, device: Device, seconds: float, marks_captures: bool = True) -> None:
        self._device = device
        self._seconds = seconds
        self._marks_steps = seconds > 0
        self._marks_captures = seconds > 0 and marks_captures
        self._last = 0
        self._captured: dict[int, Pieces] = {}
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
            given = [*self._flying, started]
            # The first that has not landed may have ended, and the next one hang.
            at = (one for one in given if error.reached in one.pieces)
            raise self._named(next(at, given[0]), error) from error
        self._flying.append(started)

    def piece(self, started: Started, name: str) -> None:
        """The next piece of a step is given to the device."""
        if self._marks_steps:
            self._marks_steps = self._mark(started.pieces, name)

    def capturing(self, size: int) -> Callable[[str], None]:
        """A decode is captured; what is given back is told the name of each piece before it.

        Args:
            size: how many sequences it is for.
        """
        pieces = self._captured[size] = {}
        return partial(self._capture_piece, pieces)

    def _capture_piece(self, pieces: Pieces, name: str) -> None:
        if self._marks_captures:
            self._marks_captures = self._mark(pieces, name)

    def replayed(self, started: Started, size: int) -> None:
        """A step is the decode that was captured last for so many sequences."""
        started.is_captured = True
        started.pieces = self._captured.get(size, {})

    def leave_captures_alone(self) -> bool:
        """Leave no marks in what is captured from now on; False if there were none already."""
        before, self._marks_captures = self._marks_captures, False
        return before

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

    def _mark(self, pieces: Pieces, name: str) -> bool:
        """Leave the next mark; False if this device leaves none, and steps are named whole."""
        number = self._last % MOST_MARKS + 1
        try:
            self._device.mark(number)
        except DeviceLostError:
            raise
        except MachineError:
            pieces.clear()
            return False
        self._last = number
        pieces[number] = name
        return True

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

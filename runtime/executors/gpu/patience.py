"""Waiting for a GPU's driver, but not for ever.

A wait of the driver cannot be ended, so what has happened is asked for again and again: without a
pause while steps usually end, then some thousand times a second. By then the next step is under
way, so the pause does not keep the device waiting.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from .cubins import checked
from .device import DeviceHangError

# A decode of a small model ends within this; a pause is a small part of any longer step.
EAGER_S, PAUSE_S = 1e-3, 2e-4


class Patience:
    """How long one device is waited for.

    Args:
        driver: such as ``open_driver`` gives.

    Attributes:
        seconds: how long; 0 for ever.
        reached: tells the mark that the device came to last.
        is_lost: whether the device was waited for in vain.
    """

    def __init__(self, driver: Any) -> None:
        self._driver = driver
        self.seconds = 0.0
        self.reached: Callable[[], int] = lambda: 0
        self.is_lost = False

    def event(self, what: str, event: Any) -> None:
        """Wait until an event has happened.

        Raises:
            DeviceHangError: it does not happen.
            MachineError: something before it failed.
        """
        if self.seconds:
            self._poll(what, lambda: self._driver.cuEventQuery(event))
        else:
            checked(self._driver, what, self._driver.cuEventSynchronize(event))

    def stream(self, what: str, stream: Any) -> None:
        """Wait until all that a stream was given has happened; errors as for ``event``."""
        if self.seconds:
            self._poll(what, lambda: self._driver.cuStreamQuery(stream))
        else:
            checked(self._driver, what, self._driver.cuStreamSynchronize(stream))

    def _poll(self, what: str, query: Callable[[], Sequence[Any]]) -> None:
        not_ready = self._driver.CUresult.CUDA_ERROR_NOT_READY
        answer, since_s = query(), time.monotonic()
        while answer[0] == not_ready:
            waited_s = time.monotonic() - since_s
            if self.is_lost or waited_s > self.seconds:
                self.is_lost = True
                raise DeviceHangError(self.reached(), got=f"{what}, waited for {waited_s:.1f} s")
            if waited_s > EAGER_S:
                time.sleep(PAUSE_S)
            answer = query()
        checked(self._driver, what, answer)

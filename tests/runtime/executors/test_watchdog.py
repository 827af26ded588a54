"""A step that does not end is an error that names where it hangs."""

from __future__ import annotations

import pytest

from graphopt.errors import MachineError
from graphopt.runtime.dispatch import BatchShape
from graphopt.runtime.executors.device import DeviceHangError
from graphopt.runtime.executors.watchdog import Watchdog
from tests.runtime.executors.interpreted_device import InterpretedDevice

SHAPE = BatchShape(9, 2, 3, 4, 7)


def hangs(reached: int) -> None:
    raise DeviceHangError(reached)


@pytest.mark.parametrize(
    ("reached", "where"),
    [
        (0, "what is before the first piece of a step of 9 tokens in 3 sequences"),
        (3, "p0 of a step of 9 tokens in 3 sequences"),
        (4, "p1 of a step of 9 tokens in 3 sequences"),
        (5, "sampling of a step of 9 tokens in 3 sequences"),
    ],
)
def test_the_piece_that_began_and_did_not_end_is_named(reached: int, where: str) -> None:
    device = InterpretedDevice()
    watchdog = Watchdog(device, 0.5)
    before, started = watchdog.begin(SHAPE), watchdog.begin(SHAPE)
    for name in ("p0", "p1"):
        watchdog.piece(before, name)
    for name in ("p0", "p1", "sampling"):
        watchdog.piece(started, name)
    assert device.reached == 5
    assert watchdog.land(before, lambda: 7) == 7
    with pytest.raises(MachineError, match="does not end") as caught:
        watchdog.land(started, lambda: hangs(reached))
    assert caught.value.where == where
    assert caught.value.got == "no answer for 0.5 seconds"
    for again in (lambda: watchdog.begin(SHAPE), lambda: watchdog.land(before, lambda: 7)):
        with pytest.raises(MachineError, match="has not answered since") as caught:
            again()
        assert caught.value.where == where


def test_a_captured_decode_is_named_as_a_whole() -> None:
    watchdog = Watchdog(InterpretedDevice(), 1.0)
    started = watchdog.begin(SHAPE)
    started.is_captured = True
    with pytest.raises(MachineError) as caught:
        watchdog.land(started, lambda: hangs(0))
    assert caught.value.where == "the captured decode of 3 sequences"


def test_without_a_limit_nothing_is_marked() -> None:
    device = InterpretedDevice()
    watchdog = Watchdog(device, 0.0)
    started = watchdog.begin(SHAPE)
    watchdog.piece(started, "p0")
    assert device.patience_s == device.reached == 0
    assert started.pieces == []
    watchdog = Watchdog(device, 2.0)
    assert device.patience_s == 2.0

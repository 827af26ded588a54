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
    with watchdog.giving(before):
        for name in ("p0", "p1"):
            watchdog.piece(before, name)
    with watchdog.giving(started):
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
    with watchdog.giving(started):
        started.is_captured = True
    with pytest.raises(MachineError) as caught:
        watchdog.land(started, lambda: hangs(0))
    assert caught.value.where == "the captured decode of 3 sequences"


def test_a_step_that_cannot_be_given_since_another_hangs_names_that_one() -> None:
    watchdog = Watchdog(InterpretedDevice(), 1.0)
    hanging, other = watchdog.begin(SHAPE), watchdog.begin(BatchShape(1, 1, 1, 1, 1))
    with pytest.raises(ValueError, match="by itself"), watchdog.giving(other):
        raise ValueError("by itself")
    with watchdog.giving(hanging):
        watchdog.piece(hanging, "p4")
    with pytest.raises(MachineError, match="does not end") as caught, watchdog.giving(other):
        hangs(1)
    assert caught.value.where == "p4 of a step of 9 tokens in 3 sequences"
    alone = Watchdog(InterpretedDevice(), 1.0)
    with pytest.raises(MachineError) as caught, alone.giving(other):
        hangs(0)
    assert "a step of 1 tokens in 1 sequences" in str(caught.value.where)


def test_without_a_limit_nothing_is_marked() -> None:
    device = InterpretedDevice()
    watchdog = Watchdog(device, 0.0)
    started = watchdog.begin(SHAPE)
    watchdog.piece(started, "p0")
    assert device.patience_s == device.reached == 0
    assert started.pieces == []
    watchdog = Watchdog(device, 2.0)
    assert device.patience_s == 2.0

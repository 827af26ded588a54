"""A step that does not end is an error that names where it hangs."""

from __future__ import annotations

import pytest

from graphopt.errors import DeviceLostError, MachineError
from graphopt.runtime.dispatch import BatchShape
from graphopt.runtime.executors.gpu.device import DeviceHangError
from graphopt.runtime.executors.gpu.watchdog import Started, Watchdog
from tests.runtime.executors.gpu.interpreted_device import InterpretedDevice

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


def captured(watchdog: Watchdog, size: int, names: str) -> None:
    """A decode of some pieces is captured."""
    begins = watchdog.capturing(size)
    for name in names.split():
        begins(name)


def replayed(watchdog: Watchdog, count: int, size: int) -> Started:
    """A decode of so many sequences is given to the device."""
    started = watchdog.begin(BatchShape(count, count, count, 1, 1))
    with watchdog.giving(started):
        watchdog.replayed(started, size)
    return started


def where(watchdog: Watchdog, started: Started, reached: int) -> str:
    with pytest.raises(DeviceLostError, match="does not end") as caught:
        watchdog.land(started, lambda: hangs(reached))
    return str(caught.value.where)


@pytest.mark.parametrize(
    ("reached", "named"),
    [
        (0, "what is before the first piece of the captured decode of 3 sequences"),
        (2, "what is before the first piece of the captured decode of 3 sequences"),
        (3, "inputs of the captured decode of 3 sequences"),
        (4, "p0 of the captured decode of 3 sequences"),
        (5, "after of the captured decode of 3 sequences"),
    ],
)
def test_the_piece_of_a_captured_decode_is_named(reached: int, named: str) -> None:
    device = InterpretedDevice()
    watchdog = Watchdog(device, 1.0)
    captured(watchdog, 1, "inputs after")
    captured(watchdog, 4, "inputs p0 after")
    assert device.reached == 5
    small, large = replayed(watchdog, 1, 1), replayed(watchdog, 3, 4)
    replayed(watchdog, 1, 1)
    assert watchdog.land(small, lambda: 7) == 7
    assert where(watchdog, large, reached) == named


def test_a_decode_that_was_captured_again_meanwhile_is_named_as_it_was() -> None:
    watchdog = Watchdog(InterpretedDevice(), 1.0)
    captured(watchdog, 2, "inputs p0")
    before = replayed(watchdog, 2, 2)
    captured(watchdog, 2, "inputs p0")
    later = replayed(watchdog, 2, 2)
    assert before.hanging(2).startswith("p0 of")
    assert later.hanging(2).startswith("what is before the first piece of")
    assert later.hanging(4).startswith("p0 of")


def test_what_hangs_while_a_step_is_given_may_be_the_second_of_those_under_way() -> None:
    watchdog = Watchdog(InterpretedDevice(), 1.0)
    captured(watchdog, 1, "inputs")
    captured(watchdog, 2, "inputs p0")
    for size in (1, 2):
        replayed(watchdog, size, size)
    other = watchdog.begin(SHAPE)
    with pytest.raises(DeviceLostError) as caught, watchdog.giving(other):
        hangs(3)
    assert caught.value.where == "p0 of the captured decode of 2 sequences"


@pytest.mark.parametrize("reason", ["asked", "refused", "simplified"])
def test_without_marks_a_captured_decode_is_named_as_a_whole(reason: str) -> None:
    device = InterpretedDevice(leaves_marks=reason != "refused")
    watchdog = Watchdog(device, 1.0, marks_captures=reason != "asked")
    if reason == "simplified":
        assert watchdog.leave_captures_alone()
    captured(watchdog, 4, "inputs p0 after")
    assert not watchdog.leave_captures_alone(), "there is nothing more to leave out"
    assert device.captured_marks == device.reached == 0
    assert where(watchdog, replayed(watchdog, 3, 4), 0) == "the captured decode of 3 sequences"


def test_where_marks_are_refused_midway_none_is_believed() -> None:
    device = InterpretedDevice()
    watchdog = Watchdog(device, 1.0)
    begins = watchdog.capturing(4)
    begins("inputs")
    device.leaves_marks = False
    begins("p0")
    assert where(watchdog, replayed(watchdog, 4, 4), 1) == "the captured decode of 4 sequences"
    plain = Watchdog(device, 1.0)
    started = plain.begin(SHAPE)
    with plain.giving(started):
        plain.piece(started, "p0")
    assert where(plain, started, 0) == "a step of 9 tokens in 3 sequences"


def test_numbers_begin_anew_before_they_do_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graphopt.runtime.executors.gpu.watchdog.MOST_MARKS", 3)
    device = InterpretedDevice()
    watchdog = Watchdog(device, 1.0)
    started = watchdog.begin(SHAPE)
    found = []
    for name in ("p0", "p1", "p2", "p3"):
        watchdog.piece(started, name)
        found.append(device.reached)
    assert found == [1, 2, 3, 1]


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
    assert started.pieces == {}
    captured(watchdog, 4, "inputs")
    assert device.captured_marks == 0
    watchdog = Watchdog(device, 2.0)
    assert device.patience_s == 2.0

"""A driver is waited for as long as is allowed, and no error of its own is lost."""

from __future__ import annotations

import pytest

from graphopt.errors import MachineError
from graphopt.runtime.executors.gpu.device import DeviceHangError
from graphopt.runtime.executors.gpu.patience import Patience
from tests.runtime.executors.gpu.memory_driver import MemoryDriver, hang


def recorded(driver: MemoryDriver) -> list[bool]:
    (_, event) = driver.cuEventCreate(0)
    driver.cuEventRecord(event, 77)
    assert isinstance(event, list)
    return event


@pytest.mark.parametrize("seconds", [0.0, 60.0])
def test_what_ends_is_waited_for(seconds: float) -> None:
    driver = MemoryDriver()
    patience, done = Patience(driver), []
    patience.seconds = seconds
    driver.queue += [lambda: done.append(1)] * 3
    event = recorded(driver)
    patience.event("a test", event)
    assert len(done) == 3
    driver.queue += [lambda: done.append(1)] * 2
    patience.stream("a test", 77)
    assert len(done) == 5
    names = {name for name, *_ in driver.calls}
    waits = {"cuEventSynchronize", "cuStreamSynchronize"}
    asks = {"cuEventQuery", "cuStreamQuery"}
    assert names >= (asks if seconds else waits)
    assert not names & (waits if seconds else asks)


def test_what_does_not_end_is_given_up_and_after_it_at_once() -> None:
    driver = MemoryDriver()
    patience = Patience(driver)
    patience.seconds, patience.reached = 0.02, lambda: 41
    driver.queue.append(hang)
    event = recorded(driver)
    with pytest.raises(DeviceHangError) as caught:
        patience.event("a test", event)
    assert caught.value.reached == 41
    assert "a test, waited for " in str(caught.value)
    asked = len(driver.calls)
    assert 2 < asked < 1e5, "it was asked more than once, and not all the time"
    patience.seconds = 1e9
    with pytest.raises(DeviceHangError):
        patience.stream("another", 77)
    assert len(driver.calls) == asked + 1


def test_an_error_of_the_driver_is_told() -> None:
    driver = MemoryDriver(failing=frozenset({"cuEventQuery"}))
    patience = Patience(driver)
    patience.seconds = 1.0
    with pytest.raises(MachineError, match="refuses a test") as caught:
        patience.event("a test", recorded(driver))
    assert not isinstance(caught.value, DeviceHangError)
    assert not patience.is_lost

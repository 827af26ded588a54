"""Bytes reach the device as they were when they were given, however late the copy is made."""

from __future__ import annotations

import numpy as np
import pytest

from graphopt.errors import MachineError
from graphopt.runtime.executors.gpu.pinned import BUFFER_BYTES, BUFFERS, FETCHES, LANDINGS, Pinned
from tests.runtime.executors.gpu.memory_driver import MemoryDriver


def memory(driver: MemoryDriver, nbytes: int) -> int:
    return int(driver.cuMemAlloc(nbytes)[1])


@pytest.mark.parametrize("count", [0, 1, 1000, BUFFER_BYTES, 3 * BUFFER_BYTES + 17])
def test_there_and_back(count: int) -> None:
    driver = MemoryDriver()
    pinned = Pinned(driver, 77)
    given = np.random.default_rng(count).integers(0, 256, count, dtype=np.uint8)
    place = memory(driver, count + 1)
    before = given.copy()
    pinned.write(place, given)
    given[:] = 0
    np.testing.assert_array_equal(pinned.read(place, count), before)
    assert driver.blocks[place][count] == 0xFF, "written past the end"


def test_buffers_are_used_again_only_when_their_copy_is_finished() -> None:
    driver = MemoryDriver()
    pinned = Pinned(driver, 77)
    place = memory(driver, 8 * 100)
    for number in range(100):
        pinned.write(place + 8 * number, np.array([number]))
    assert len(driver.queue) == 2 * BUFFERS, "nobody waited longer than it takes"
    assert pinned.read(place, 800).view(np.int64).tolist() == list(range(100))


def test_what_is_fetched_is_as_it_was_then_and_nobody_waits_before_it_is_asked_for() -> None:
    driver = MemoryDriver()
    pinned = Pinned(driver, 77)
    place = memory(driver, 8)
    fetched = []
    for number in range(5 * FETCHES):
        pinned.write(place, np.array([number]))
        fetched.append(pinned.fetch(place, 8))
        if number < FETCHES:
            assert len(driver.queue) == 4 * (number + 1), "two copies, each with its event"
    asked = np.random.default_rng(1).permutation(len(fetched))
    assert [fetched[n]().view(np.int64)[0] for n in asked] == asked.tolist()
    assert fetched[3]().view(np.int64)[0] == 3, "asked for again"


@pytest.mark.parametrize("count", [0, BUFFER_BYTES, BUFFER_BYTES + 1])
def test_any_number_of_bytes_is_fetched(count: int) -> None:
    driver = MemoryDriver()
    pinned = Pinned(driver, 77)
    given = np.random.default_rng(count).integers(0, 256, count, dtype=np.uint8)
    place = memory(driver, count)
    pinned.write(place, given)
    np.testing.assert_array_equal(pinned.fetch(place, count)(), given)


def test_any_array_is_taken() -> None:
    driver = MemoryDriver()
    pinned = Pinned(driver, 77)
    place = memory(driver, 64)
    pinned.write(place, np.arange(8, dtype=np.int32).reshape(2, 4).T)
    assert pinned.read(place, 32).view(np.int32).tolist() == [0, 4, 1, 5, 2, 6, 3, 7]


def test_a_copy_that_fails_says_so() -> None:
    driver = MemoryDriver(failing=frozenset({"cuMemcpyHtoDAsync"}))
    pinned = Pinned(driver, 77)
    with pytest.raises(MachineError, match="a copy to the device"):
        pinned.write(memory(driver, 8), np.array([1]))


def test_it_is_closed_once() -> None:
    driver = MemoryDriver()
    pinned = Pinned(driver, 77)
    pinned.close()
    pinned.close()
    assert driver.host == {}
    assert [name for name, *_ in driver.calls].count("cuEventDestroy") == (
        BUFFERS + FETCHES + LANDINGS
    )


def test_what_lands_is_not_copied_and_stays_until_the_landing_after_the_next_one() -> None:
    driver = MemoryDriver()
    pinned = Pinned(driver, 77)
    place = memory(driver, 8)
    landed = []
    for number in range(7):
        pinned.write(place, np.array([number]))
        landed.append(pinned.land(place, 8))
        for back in range(min(number + 1, LANDINGS)):
            found = landed[number - back]()
            assert found.view(np.int64)[0] == number - back
            assert not found.flags.owndata
    assert np.shares_memory(landed[4](), landed[6]())


def test_nobody_waits_before_what_lands_is_asked_for() -> None:
    driver = MemoryDriver()
    pinned = Pinned(driver, 77)
    place = memory(driver, 8)
    landed = [pinned.land(place, 8) for _ in range(LANDINGS)]
    assert len(driver.queue) == 2 * LANDINGS, "copies, each with its event"
    landed[-1]()
    assert not driver.queue


def test_more_than_ever_before_lands_elsewhere() -> None:
    driver = MemoryDriver()
    pinned = Pinned(driver, 77)
    most = 2 * BUFFER_BYTES + 17
    given = np.random.default_rng(3).integers(0, 256, most, dtype=np.uint8)
    place = memory(driver, most)
    pinned.write(place, given)
    small = pinned.land(place, 5)
    sizes = [1, most, 0, most - 1, 7]
    found = [(size, pinned.land(place, size)().copy()) for size in sizes]
    for size, bytes_ in found:
        np.testing.assert_array_equal(bytes_, given[:size])
    assert small().shape == (5,)
    pinned.close()
    pinned.close()

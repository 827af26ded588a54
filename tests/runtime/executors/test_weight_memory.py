"""A copy of weights holds the same numbers, on pages of its own, however many threads fill it."""

import os
from pathlib import Path

import numpy as np
import pytest

from graphopt.arena import ALIGNMENT
from graphopt.errors import MachineError, UsageError
from graphopt.runtime.executors import weight_memory
from graphopt.runtime.executors.weight_memory import (
    COPY,
    HUGE_PAGE_BYTES,
    MMAP,
    Array,
    copied,
    huge_pages,
    place_weights,
)
from graphopt.runtime.threads import Placement


class Arrays(dict[str, Array]):
    """Weights that are not in a file."""

    def stored(self, name: str) -> Array:
        return self[name]


def arrays() -> Arrays:
    random = np.random.default_rng()
    return Arrays(
        {
            "matrix": random.integers(0, 1 << 16, (37, 41), dtype=np.uint16),
            "one": np.array(2.5, dtype=np.float32),
            "nothing": np.zeros((0, 3), dtype=np.float32),
            "bytes": random.integers(0, 256, 3 << 20, dtype=np.uint8),
            "odd": random.standard_normal((3, 5, 7)),
        }
    )


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
def test_copies_are_equal_aligned_and_apart(threads: int) -> None:
    given = arrays()
    placed = place_weights(given, given, COPY, Placement(threads))
    for name, array in given.items():
        copy = placed[name]
        assert copy.dtype == array.dtype
        assert np.array_equal(copy, array)
        assert copy.ctypes.data % ALIGNMENT == 0
        assert not np.shares_memory(copy, array)


def test_only_what_is_named_is_copied_in_that_order() -> None:
    placed = place_weights(arrays(), ["odd", "matrix"], COPY, Placement(2))
    assert placed["odd"].ctypes.data < placed["matrix"].ctypes.data
    with pytest.raises(KeyError):
        placed["bytes"]


def test_mapped_weights_are_read_where_they_are() -> None:
    given = arrays()
    placed = place_weights(given, ["odd", "one"], MMAP, Placement(2))
    assert list(placed) == ["odd", "one"]
    assert placed["odd"] is given["odd"]


def test_threads_that_copy_are_where_they_will_read() -> None:
    cpus = sorted(os.sched_getaffinity(0))
    given = arrays()
    copies = copied(given, Placement(len(cpus), tuple(cpus)))
    assert all(np.array_equal(copies[name], array) for name, array in given.items())
    assert sorted(os.sched_getaffinity(0)) == cpus  # the caller stays where it was


def test_huge_pages_are_asked_for_and_aligned() -> None:
    block = huge_pages(3 * HUGE_PAGE_BYTES + 5)
    assert len(block) == 3 * HUGE_PAGE_BYTES + 5
    assert block.ctypes.data % HUGE_PAGE_BYTES == 0
    assert not block.any()
    if Path("/sys/kernel/mm/transparent_hugepage").is_dir():
        flags = flags_of(block.ctypes.data)
        assert "hg" in flags


def flags_of(address: int) -> list[str]:
    """What the kernel says of the mapping that holds ``address``."""
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        word = line.split()[0]
        if "-" in word and not word.endswith(":"):
            first, last = (int(one, 16) for one in word.split("-"))
            inside = first <= address < last
        elif inside and word == "VmFlags:":
            return line.split()[1:]
    return []


def test_no_memory_names_the_other_place(monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(nbytes: int) -> Array:
        raise MemoryError

    monkeypatch.setattr(weight_memory, "huge_pages", none_left)
    with pytest.raises(MachineError, match="copy of the weights") as caught:
        copied(arrays(), Placement(1))
    assert "mmap" in str(caught.value.next)


def test_more_than_there_is_is_a_memory_error() -> None:
    for nbytes in (1 << 60, 1 << 70):
        with pytest.raises(MemoryError):
            huge_pages(nbytes)


def test_an_unknown_place_is_refused() -> None:
    with pytest.raises(UsageError, match="unknown place"):
        place_weights(arrays(), [], "disk", Placement(1))

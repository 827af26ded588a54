"""A number that a stream left is there without a call; in a graph nothing waits for it."""

from __future__ import annotations

from typing import Any

import pytest

from graphopt.errors import MachineError
from graphopt.runtime.executors.gpu.marks import Marks
from tests.runtime.executors.gpu.memory_driver import MemoryDriver, hang

STREAM = 77


def marks(**driver: Any) -> tuple[MemoryDriver, Marks]:
    fake = MemoryDriver(**driver)
    return fake, Marks(fake, "context", STREAM)


def captured(fake: MemoryDriver, one: Marks, *pieces: tuple[int, tuple[str, ...]]) -> str:
    """A graph of launches, with a number left before each piece."""
    fake.cuStreamBeginCapture(STREAM, "this thread's")
    one.begin_capture()
    for number, launches in pieces:
        one.leave_captured(number)
        assert fake.capturing is not None
        fake.capturing.extend(launches)
    (_, graph) = fake.cuStreamEndCapture(STREAM)
    (_, handle) = fake.cuGraphInstantiate(graph, 0)
    return str(handle)


def reached_in_turn(fake: MemoryDriver, one: Marks) -> list[int]:
    """What was reached, as the stream goes on as far as it does."""
    found = [one.reached]
    while fake.queue and fake.queue[0] is not hang:
        fake.queue.pop(0)()
        found.append(one.reached)
    return found


def test_a_stream_leaves_numbers_in_its_turn() -> None:
    fake, one = marks()
    assert one.reached == 0
    for number in (5, 2**32 - 1, 1):
        one.leave(number)
    assert one.reached == 0, "the stream has done nothing yet"
    before = len(fake.calls)
    assert reached_in_turn(fake, one) == [0, 5, 2**32 - 1, 1]
    assert len(fake.calls) == before, "nothing is asked of the driver"


def test_marks_of_a_graph_come_after_what_was_captured_and_before_nothing() -> None:
    fake, one = marks()
    captured(fake, one, (7, ("a", "b")), (8, ()), (9, ("c",)), (10, ()))
    assert fake.graphs[0] == ["a", "b", "c"], "launches are what they were"
    assert [(before, write.value) for before, write in fake.marks[0]] == [
        ([], 7),
        ([("launch", 1), ("mark", 0)], 8),
        ([("launch", 1), ("mark", 1)], 9),
        ([("launch", 2), ("mark", 2)], 10),
    ]
    captured(fake, one, (11, ("a",)))
    assert [before for before, _ in fake.marks[1]] == [[]], "another graph has its own first"


@pytest.mark.parametrize(("hanging", "last"), [(0, 7), (1, 7), (2, 8), (-1, 9)])
def test_the_piece_that_hangs_has_the_last_mark(hanging: int, last: int) -> None:
    fake, one = marks(hanging=hanging)
    graph = captured(fake, one, (7, ("a", "b")), (8, ("c",)), (9, ()))
    fake.cuGraphLaunch(graph, STREAM)
    assert reached_in_turn(fake, one)[-1] == last
    assert bool(fake.queue) == (hanging >= 0)


def test_graphs_that_alternate_have_marks_of_their_own() -> None:
    fake, one = marks()
    small = captured(fake, one, (1, ("a",)), (2, ()))
    large = captured(fake, one, (3, ("a", "b")), (4, ()))
    for graph in (small, large, large, small):
        fake.cuGraphLaunch(graph, STREAM)
    assert reached_in_turn(fake, one) == [0, 1, 2, 3, 4, 3, 4, 1, 2]


@pytest.mark.parametrize("call", ["cuStreamWriteValue32", "cuGraphAddBatchMemOpNode"])
def test_a_driver_without_them_refuses(call: str) -> None:
    fake, one = marks(failing=frozenset({call}))
    plain = call == "cuStreamWriteValue32"
    with pytest.raises(MachineError, match="refuses a mark"):
        one.leave(3) if plain else captured(fake, one, (3, ("a",)))
    assert one.reached == 0


def test_its_memory_is_given_back_once() -> None:
    fake, one = marks()
    assert len(fake.host) == 1
    one.close()
    one.close()
    assert fake.host == {}

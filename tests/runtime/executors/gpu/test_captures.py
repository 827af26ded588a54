"""Graphs are made when they are needed, the largest first; what cannot be made is given up."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from graphopt.errors import DisagreementError, MachineError
from graphopt.runtime.capture_plan import CapturePlan
from graphopt.runtime.dispatch import BatchShape, Mode
from graphopt.runtime.executors.gpu.captures import Captures
from graphopt.runtime.executors.gpu.device import DeviceMemoryError
from tests.runtime.executors.gpu.interpreted_device import InterpretedDevice

PLAN = CapturePlan((1, 4, 8), (16, 64), 5, (10, 10, 10), (20, 20))


class Recorder:
    """Launches that say that they ran: the whole step, or two pieces."""

    def __init__(self, **device: Any) -> None:
        self.device = InterpretedDevice(**device)
        self.ran: list[str] = []
        self.asked: list[tuple[Mode, int]] = []
        self.addresses = {"weight w": 256, "the arena of slots": 512}
        self.captures = Captures(self.device, PLAN, self.record, lambda: dict(self.addresses))

    def record(self, mode: Mode, sizes: Mapping[str, int]) -> Iterator[tuple[str, Any]]:
        self.asked.append((mode, sizes["T"]))
        for name in ["step"] if mode is Mode.WHOLE else ["p0", "p2"]:
            said = f"{name} at {sizes['T']}"
            yield name, lambda said=said: self.device.do(lambda: self.ran.append(said))

    def replay(self, shape: BatchShape) -> list[str]:
        """What a batch replays."""
        self.ran.clear()
        for graph in self.captures.graphs(self.captures.choose(shape)).values():
            self.device.replay(graph)
        return list(self.ran)


def decodes(count: int, blocks: int = 2) -> BatchShape:
    return BatchShape(count, count, count, blocks, 1)


def mixed(tokens: int) -> BatchShape:
    return BatchShape(tokens, 1, 2, 2, tokens - 1)


def test_the_largest_is_captured_first_and_each_once() -> None:
    one = Recorder()
    assert one.asked == [], "nothing before it is needed"
    assert one.replay(decodes(3)) == ["step at 4"]
    assert one.asked == [(Mode.WHOLE, 8), (Mode.WHOLE, 4)]
    assert one.replay(decodes(2)) == ["step at 4"]
    assert one.replay(decodes(8)) == ["step at 8"]
    assert len(one.asked) == 2
    assert one.replay(mixed(10)) == ["p0 at 16", "p2 at 16"]
    assert one.asked[2:] == [(Mode.PIECES, 64), (Mode.PIECES, 16)]
    assert one.captures.plan == PLAN


def test_other_batches_have_no_graphs() -> None:
    one = Recorder()
    assert one.replay(mixed(65)) == []
    assert one.replay(BatchShape(9, 9, 9, 9, 1)) == ["p0 at 16", "p2 at 16"], "no whole step"
    assert one.replay(decodes(2, blocks=6)) == ["p0 at 16", "p2 at 16"], "too wide tables"


def test_what_graphs_take_is_told() -> None:
    one = Recorder()
    one.replay(decodes(3))
    assert one.captures.measured.decode_bytes == (10, 64, 64)
    one.replay(mixed(20))
    assert one.captures.measured.piece_bytes == (20, 128)
    assert "were expected" in one.captures.measured.reasons[-1]


@pytest.mark.parametrize(
    ("captures", "kept", "needed"),
    [(1, (), []), (2, (8,), ["step at 8"])],
    ids=["not even the largest", "the largest"],
)
def test_without_memory_no_more_is_captured(
    captures: int, kept: tuple[int, ...], needed: list[str]
) -> None:
    one = Recorder(
        refuse_capture=lambda n: DeviceMemoryError("full", got="2") if n >= captures else None
    )
    assert one.replay(decodes(3)) == [], "this one is launched plainly"
    assert one.captures.plan.decode_sizes == kept
    assert one.captures.plan.piece_sizes == ()
    assert "no more is captured: full: 2" in one.captures.plan.reasons[-1]
    assert one.replay(decodes(3)) == needed
    tries = one.device.captures
    one.replay(decodes(1))
    one.replay(mixed(10))
    assert one.device.captures == tries


def test_a_size_that_is_refused_is_given_up_alone() -> None:
    one = Recorder(refuse_capture=lambda n: MachineError("no") if n == 2 else None)
    assert one.replay(decodes(3)) == []
    assert one.captures.plan.decode_sizes == (1, 8)
    assert one.captures.plan.piece_sizes == (16, 64)
    assert "whole steps of 4 tokens are not captured" in one.captures.plan.reasons[-1]
    assert one.replay(decodes(3)) == ["step at 8"]


def test_of_pieces_that_are_half_captured_nothing_is_kept() -> None:
    one = Recorder(refuse_capture=lambda n: MachineError("no") if n == 2 else None)
    assert one.replay(mixed(50)) == []
    assert one.device.graphs == []
    assert one.captures.plan.piece_sizes == (16,)


@pytest.mark.parametrize(
    ("change", "what"),
    [({"weight w": 1024}, "weight w"), ({"keys of layer 0": 64}, "keys of layer 0")],
)
def test_a_stale_address_is_named_before_the_first_replay(
    change: dict[str, int], what: str
) -> None:
    one = Recorder()
    assert one.replay(decodes(4)) == ["step at 4"]  # 8 was captured, and never ran
    one.addresses |= change
    with pytest.raises(DisagreementError, match="no longer there") as caught:
        one.replay(decodes(8))
    assert what in str(caught.value)
    one.captures.drop()
    assert one.device.graphs == []
    assert one.replay(decodes(8)) == ["step at 8"]


@pytest.mark.parametrize(
    ("refused", "tries", "kept"), [((1,), 2, (1, 4, 8)), ((1, 2), 2, (1, 4)), ((3,), 4, (1, 4, 8))]
)
def test_a_whole_step_that_is_refused_is_tried_once_more_with_less_in_it(
    refused: tuple[int, ...], tries: int, kept: tuple[int, ...]
) -> None:
    one = Recorder(refuse_capture=lambda n: MachineError("no") if n in refused else None)
    left = ["marks"]
    one.captures._simplify = lambda: bool(left) and left.pop() == "marks"
    for count in (8, 3, 1) if max(refused) > 2 else (8,):
        one.replay(decodes(count))
    assert one.device.captures == tries
    assert one.captures.plan.decode_sizes == kept
    assert left == []


def test_where_memory_lacks_or_pieces_are_refused_nothing_is_left_out() -> None:
    errors = {1: DeviceMemoryError("full", got="2"), 2: MachineError("no")}
    for number, error in errors.items():
        one = Recorder(refuse_capture=lambda n, number=number: errors[number])
        one.captures._simplify = lambda: pytest.fail("less would not help")
        one.replay(decodes(3) if number == 1 else mixed(10))
        assert error.what in one.captures.plan.reasons[-1]


class Told:
    """What was reported."""

    def __init__(self) -> None:
        self.said: list[tuple[str, int, int]] = []

    def __call__(self, stage: str, done: int, total: int) -> None:
        self.said.append((stage, done, total))


def test_all_are_captured_at_once_the_largest_first_and_it_is_told() -> None:
    one, told = Recorder(), Told()
    one.captures.make_all(told)
    wholes, pieces = [(Mode.WHOLE, n) for n in (8, 4, 1)], [(Mode.PIECES, n) for n in (64, 16)]
    assert one.asked == [*wholes, *pieces]
    assert told.said[:6] == [("capturing", number, 5) for number in range(6)]
    assert told.said[6][0].startswith("5 of 5 sizes captured in 0.")
    assert "were expected" in told.said[7][0]
    assert len(told.said) == 8
    assert one.replay(decodes(3)) == ["step at 4"]
    assert one.replay(mixed(10)) == ["p0 at 16", "p2 at 16"]
    assert one.asked == [*wholes, *pieces], "nothing is captured twice"
    assert one.captures.plan == PLAN
    one.captures.drop()
    assert one.replay(decodes(3)) == ["step at 4"]


@pytest.mark.parametrize(("captures", "made", "kept"), [(2, 1, (8,)), (4, 3, (1, 4, 8))])
def test_without_memory_the_sizes_that_are_there_stay(
    captures: int, made: int, kept: tuple[int, ...]
) -> None:
    full = DeviceMemoryError("full", got="2")
    one, told = Recorder(refuse_capture=lambda n: full if n >= captures else None), Told()
    one.captures.make_all(told)
    assert one.device.captures == captures, "no other is tried"
    assert (one.captures.plan.decode_sizes, one.captures.plan.piece_sizes) == (kept, ())
    assert told.said[6][0].startswith(f"{made} of 5 sizes captured")
    assert "and no more is captured: full: 2" in told.said[7][0]
    assert one.replay(decodes(1)) == [f"step at {kept[0]}"]


def test_what_a_size_takes_is_known_before_it_is_captured() -> None:
    one, told = Recorder(total=64 + 9), Told()
    one.captures.make_all(told)  # a graph of this device takes 64 bytes
    assert one.captures.plan.decode_sizes == (8,)
    assert "9 bytes free of 10 that they are expected to take" in one.captures.plan.reasons[-1]


def test_nothing_to_capture_is_not_told() -> None:
    device, told = InterpretedDevice(), Told()
    plan = CapturePlan((), (), 0, (), ())
    Captures(device, plan, lambda mode, sizes: iter(()), dict).make_all(told)
    assert told.said == []

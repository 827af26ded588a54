"""Inputs and slots lie where steps of so many tokens find them, for good."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from graphopt.errors import UsageError
from graphopt.ir.shape import evaluate
from graphopt.plan import BufferSlot, Plan
from graphopt.runtime.executors.gpu.places import INPUTS, DevicePlaces, input_offsets
from graphopt.runtime.plan_check import REACHES
from tests.runtime.executors.gpu.interpreted_device import InterpretedDevice
from tests.runtime.executors.test_padding import step
from tests.runtime.executors.test_slots import plan

MOST = {"T": 100, "R": 20, "S": 8, "P": 5}


def decoder_plan(*, embeds: bool = False) -> Plan:
    """The plan of the tests of slots, with all inputs of a decoder, or of one that embeds."""
    base = plan(workspace=0)
    extra = [name for name in INPUTS if name != "token_ids" and (embeds or name != REACHES)]
    inputs = {"token_ids": 0, **{name: 3 + n for n, name in enumerate(extra)}}
    slots = (*base.slots, *(BufferSlot(8, name) for name in extra))
    return replace(base, inputs=inputs, slots=slots)


@pytest.mark.parametrize("embeds", [False, True])
@pytest.mark.parametrize("counts", [[1], [1, 1, 1], [5, 1], [93, 7]])
def test_inputs_are_written_where_kernels_read_them(counts: list[int], embeds: bool) -> None:
    device, base = InterpretedDevice(), decoder_plan(embeds=embeds)
    places = DevicePlaces(device, base, MOST)
    given = step(counts, 1, 3, embeds=embeds)
    places.write(given)
    found = places.at(sum(counts))
    before = device.copied_bytes
    made = {"sources": np.full(sum(counts), -1), "new_blocks": np.full(len(counts), -1, np.int32)}
    for name, address in found.inputs.items():
        if name not in base.inputs:
            continue
        want = made[name] if name in made else getattr(given, name)
        got = device.read(address, want.nbytes).view(want.dtype).reshape(want.shape)
        np.testing.assert_array_equal(got, want)
        assert found.slots[base.inputs[name]] == address
        assert address % 256 == 0
    places.close()
    assert device.copied_bytes == before, "all of it was written at once"
    assert device.blocks == {}


@pytest.mark.parametrize("sources", [np.array([4, -1, 0, 2]), -2])
def test_where_tokens_are_from_lies_there_too(sources: Any) -> None:
    device = InterpretedDevice()
    places = DevicePlaces(device, decoder_plan(), MOST)
    places.write(step([1, 3], 1, 3), sources)
    got = device.read(places.at(4).inputs["sources"], 32).view(np.int64)
    np.testing.assert_array_equal(got, np.full(4, sources))
    assert device.copied_bytes < 3000, "all is one copy"


def test_places_depend_on_tokens_alone_and_never_move() -> None:
    device = InterpretedDevice()
    places = DevicePlaces(device, decoder_plan(), MOST)
    small = places.at(3)
    assert places.at(4) is small
    assert places.at(100) is places.at(65)
    assert places.at(3) is small
    arena = range(places.arena, places.arena + places.nbytes)
    for tokens in (1, 2, 7, 64, 100):
        here = places.at(tokens)
        assert here.tokens >= tokens
        sizes = {"T": tokens, "R": min(tokens, 20), "S": min(tokens, 8), "P": 5}
        slots = decoder_plan().slots
        ends = [here.slots[n] + int(evaluate(slots[n].nbytes, sizes)) for n in (1, 2)]
        assert here.slots[1] in arena
        assert here.slots[2] in arena
        assert ends[0] <= here.slots[2] or ends[1] <= here.slots[1], "both live at the end"


def test_a_step_beyond_the_largest_is_refused() -> None:
    places = DevicePlaces(InterpretedDevice(), decoder_plan(), MOST)
    places.check(MOST)
    for name in "TRSP":
        with pytest.raises(UsageError, match="larger than memory was taken for"):
            places.check({**MOST, name: MOST[name] + 1})


def test_how_far_tokens_see_takes_no_room_where_nobody_reads_it() -> None:
    sizes = []
    for embeds in (False, True):
        device = InterpretedDevice()
        places = DevicePlaces(device, decoder_plan(embeds=embeds), MOST)
        places.write(step([90], 1, 3, embeds=embeds))
        sizes.append(device.copied_bytes)
    assert sizes[1] - sizes[0] == 512  # 90 or 100 times 4, rounded up
    assert input_offsets(100, MOST)[1] == input_offsets(100, MOST, reaches=True)[1] - 512

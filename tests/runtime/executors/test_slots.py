"""Slots lie apart in an aligned arena that grows; layouts are shared between steps."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from graphopt.errors import MachineError
from graphopt.ir.dtype import DType
from graphopt.ir.shape import sym
from graphopt.ir.types import StateType, TensorType
from graphopt.plan import BufferSlot, Limits, Piece, Plan, Step
from graphopt.runtime.executors.slots import Slots, aligned, as_f32

T, R = sym("T"), sym("R")


def plan(workspace: object = T * 4) -> Plan:
    """Slot 0 is an input; 1 lives over both steps, 2 is the output; the first step works."""
    steps = (
        Step("cpp", "a", (0,), (0,), (1,), workspace=workspace),
        Step("cpp", "b", (1,), (1,), (2,)),
    )
    slots = (
        BufferSlot(T * 8, "ids"),
        BufferSlot(T * 12, "hidden", 0, 1),
        BufferSlot(R * 10, "logits", 1, 1),
    )
    return Plan(
        name="p",
        target="cpu",
        dtype=DType.BF16,
        block_size=4,
        state=StateType("kv", ()),
        limits=Limits(64, 5, 8),
        inputs={"token_ids": 0},
        output=2,
        slots=slots,
        pieces=(Piece("p0", steps, True, ""),),
    )


def sizes(tokens: int, rows: int = 1) -> dict[str, int]:
    return {"T": tokens, "R": rows, "S": 1, "P": 1}


@pytest.mark.parametrize("nbytes", [1, 63, 64, 1000])
def test_memory_is_aligned(nbytes: int) -> None:
    found = aligned(nbytes)
    assert found.nbytes == nbytes
    assert found.ctypes.data % 64 == 0


@pytest.mark.parametrize("nbytes", [1 << 60, 1 << 63, 1 << 70])
def test_too_much_memory_is_one_kind_of_error(nbytes: int) -> None:
    with pytest.raises(MemoryError):
        aligned(nbytes)


def test_bf16_is_widened_bit_for_bit() -> None:
    bits = np.array([0x3F80, 0xC000, 0x7F80, 0x0001], dtype=np.uint16)
    assert as_f32(bits, DType.BF16).tolist() == [1.0, -2.0, np.inf, 2.0**-133]
    halves = np.array([1.5], dtype=np.float16)
    assert as_f32(halves, DType.F16).tolist() == [1.5]


def test_steps_up_to_a_power_of_two_share_a_layout() -> None:
    slots = Slots(plan())
    keys = {count: slots.layout_for(sizes(count))[0] for count in (1, 2, 3, 4, 5, 8, 9)}
    assert keys[3] == keys[4] != keys[5] == keys[8] != keys[9]
    assert slots.layout_for(sizes(3))[1] is slots.layout_for(sizes(4))[1]
    assert slots.layout_for(sizes(3, 0))[0] == slots.layout_for(sizes(4, 1))[0]


@pytest.mark.parametrize(("tokens", "rows"), [(1, 0), (1, 1), (7, 3), (33, 33), (100, 2)])
def test_what_lives_at_once_lies_apart(tokens: int, rows: int) -> None:
    slots = Slots(plan())
    here = sizes(tokens, rows)
    hidden = slots.array(1, TensorType(DType.F32, (T, 3)), here)
    logits = slots.array(2, TensorType(DType.BF16, (R, 5)), here)
    assert hidden.shape == (tokens, 3)
    assert logits.shape == (rows, 5)
    assert logits.dtype == np.uint16
    _, places = slots.layout_for(here)
    spans = [
        (places.offsets[1], tokens * 12),
        (places.workspaces[0], tokens * 4),
    ]
    (first, size), (second, _) = sorted(spans)
    assert first + size <= second
    hidden[:], logits[:] = 1.5, 7
    assert np.all(hidden == 1.5)
    assert np.all(logits == 7)
    assert 0 not in places.offsets, "inputs lie with the caller"


def test_the_arena_moves_only_when_it_grows() -> None:
    slots = Slots(plan())
    slots.layout_for(sizes(100))
    base = slots.base
    slots.layout_for(sizes(3))
    slots.layout_for(sizes(128))
    assert slots.base == base
    slots.layout_for(sizes(100_000))
    assert slots.base != base


@pytest.mark.parametrize("factor", [1 << 50, 1 << 63])
def test_too_large_a_step_says_what_to_lower(factor: int) -> None:
    with pytest.raises(MachineError, match="no memory for a step") as caught:
        Slots(plan(T * factor)).layout_for(sizes(3))
    assert "max_num_batched_tokens" in str(caught.value)


def test_closing_gives_the_memory_back() -> None:
    slots = Slots(replace(plan(), name="again"))
    slots.layout_for(sizes(1000))
    slots.close()
    assert slots._arena.nbytes == 0

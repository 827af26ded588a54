"""Where a step's inputs and slots lie on a GPU: two blocks of memory that never move.

before:  the sizes of the largest step
after:   an address for each slot of a plan, which depends on the step's tokens alone

A captured graph finds everything where it was when it was captured, so memory is taken once, for
the largest step. Since a step has at most as many rows and sequences as tokens, one layout serves
all steps of so many tokens. Inputs lie one after the other, the tables last, so that a step's
inputs are one copy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from graphopt.arena import Layout
from graphopt.errors import UsageError
from graphopt.ir.dtype import DType
from graphopt.loop_kernels import FROM_HOST, IN_TABLE
from graphopt.plan import Plan
from graphopt.safetensors_io import numpy_dtype

from ...executor import I64, StepInputs
from ...plan_check import REACHES
from ..layouts import Layouts, power_of_two_from
from .device import Device, rounded

Sizes = Mapping[str, int]

# The inputs in the order in which they lie, with their types; the first four have T entries. Two
# are for the kernels that make the others from the step before: see ``graphopt.loop_kernels``. One
# takes no room where the plan does not read it.
INPUTS: Mapping[str, DType] = {
    "token_ids": DType.I64,
    "sources": DType.I64,
    "positions": DType.I64,
    "slots": DType.I64,
    "rows": DType.I64,
    "starts": DType.I32,
    "new_blocks": DType.I32,
    "lengths": DType.I32,
    "reaches": DType.I32,
    "tables": DType.I32,
}


@dataclass(frozen=True, slots=True)
class Places:
    """Addresses for all steps up to some number of tokens.

    Attributes:
        tokens: how many.
        inputs: of each input, by name.
        slots: of each slot, by its number; inputs are among them.
    """

    tokens: int
    inputs: Mapping[str, int]
    slots: Mapping[int, int]


class DevicePlaces:
    """The memory of a plan's inputs and slots.

    Args:
        device: where.
        plan: whose.
        most: T, R, S and P of the largest step.

    Raises:
        MachineError: there is not enough memory.
    """

    def __init__(self, device: Device, plan: Plan, most: Sizes) -> None:
        self._device = device
        self._plan = plan
        self._most = dict(most)
        self._layouts = Layouts(plan)
        self._known: dict[int, Places] = {}
        _, end = self._offsets(most["T"])
        self._largest = self._layout(most["T"])
        self._staged = np.zeros(end, dtype=np.uint8)
        self.inputs = device.allocate(end, "a step's inputs")
        what = f"the slots of a step of {most['T']} tokens"
        self.arena = device.allocate(self._largest.peak_bytes, what)
        self.nbytes = end + self._largest.peak_bytes

    @property
    def most(self) -> Sizes:
        """T, R, S and P of the largest step."""
        return self._most

    def check(self, sizes: Sizes) -> None:
        """Demand that a step is not larger than the largest.

        Raises:
            UsageError: it is.
        """
        if any(sizes[name] > most for name, most in self._most.items()):
            raise UsageError(
                "a step is larger than memory was taken for",
                got=_said(sizes),
                expected=f"at most {_said(self._most)}",
                next="raise max_num_batched_tokens, max_num_seqs or max_model_len",
            )

    def at(self, tokens: int) -> Places:
        """Where everything lies in a step of so many tokens."""
        bound = min(power_of_two_from(tokens), self._most["T"])
        found = self._known.get(bound)
        if found is None:
            found = self._known[bound] = self._places(bound)
        return found

    def write(self, inputs: StepInputs, sources: I64 | int = FROM_HOST) -> None:
        """Put a step's inputs where its kernels read them, in one copy.

        Args:
            inputs: of the step.
            sources: i64[T], where its tokens are from; or one for all of them.
        """
        offsets, _ = self._offsets(self.at(len(inputs.token_ids)).tokens)
        end = 0
        for name, offset in offsets.items():
            if name == REACHES and name not in self._plan.inputs:
                continue
            array = getattr(inputs, name, None)
            count = len(inputs.lengths if name == "new_blocks" else inputs.token_ids)
            if array is not None:
                count = array.size
            end = offset + count * INPUTS[name].nbytes
            place = self._staged[offset:end].view(numpy_dtype(INPUTS[name]))
            if array is not None:
                place[:] = array.reshape(-1)
            else:
                place[:] = sources if name == "sources" else IN_TABLE
        self._device.write(self.inputs, self._staged[:end])

    def close(self) -> None:
        """Give the memory back."""
        self._device.free(self.inputs)
        self._device.free(self.arena)

    def _places(self, tokens: int) -> Places:
        offsets, _ = self._offsets(tokens)
        inputs = {name: self.inputs + offset for name, offset in offsets.items()}
        found = self._layout(tokens)
        if found.peak_bytes > self._largest.peak_bytes:
            found = self._largest  # it holds for smaller steps too, if not as tightly
        slots = {slot: self.arena + offset for slot, offset in found.offsets.items()}
        slots |= {slot: inputs[name] for name, slot in self._plan.inputs.items()}
        return Places(tokens, inputs, slots)

    def _offsets(self, tokens: int) -> tuple[Mapping[str, int], int]:
        return input_offsets(tokens, self._most, reaches=REACHES in self._plan.inputs)

    def _layout(self, tokens: int) -> Layout:
        return self._layouts.at(tokens, min(tokens, self._most["R"]), min(tokens, self._most["S"]))


def input_offsets(
    tokens: int, most: Sizes, *, reaches: bool = False
) -> tuple[Mapping[str, int], int]:
    """Where inputs lie in their block in steps up to so many tokens, and where they end.

    Args:
        tokens: T.
        most: T, R, S and P of the largest step.
        reaches: whether the plan reads how far tokens see.
    """
    sequences = min(tokens, most["S"])
    counts = {
        "token_ids": tokens,
        "sources": tokens,
        "positions": tokens,
        "slots": tokens,
        "rows": min(tokens, most["R"]),
        "starts": sequences + 1,
        "new_blocks": sequences,
        "lengths": sequences,
        "reaches": tokens if reaches else 0,
        "tables": sequences * most["P"],
    }
    offsets, end = {}, 0
    for name, dtype in INPUTS.items():
        offsets[name] = end
        end += rounded(counts[name] * dtype.nbytes)
    return offsets, end


def _said(sizes: Sizes) -> str:
    return ", ".join(f"{name}={sizes[name]}" for name in "TRSP")

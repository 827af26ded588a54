"""What a captured decode needs from the host: where its sequences only go on, next to nothing.

before:  a step in which every sequence has one token, and the step that ran before it
after:   what the kernel ``advance`` needs to make the step's inputs, on the device

A captured decode begins with ``advance``, which makes tokens, positions, slots, lengths and random
counters of those of the decode before. So where the rows are the same sequences as before, one
token on, nothing is written; where some of them begin a block, one number a row is. Else the step's
inputs are written in one copy, as they were a token earlier.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from graphopt.loop_kernels import ADVANCE_OPERANDS, ADVANCE_RESULTS, FROM_HOST, IN_TABLE, PADDING

from ...executor import I32, I64, StepInputs
from ..padding import padded
from .device import Device
from .places import DevicePlaces, Sizes


@dataclass(frozen=True, slots=True)
class _Decode:
    """The decode that ran last.

    Attributes:
        size: S that it was captured for.
        lengths: i32[S] of its sequences, without padding.
    """

    size: int
    lengths: I32


class DeviceDecodes:
    """Prepares captured decodes.

    Args:
        device: where.
        places: of the inputs.
        block_size: slots in a block.
    """

    def __init__(self, device: Device, places: DevicePlaces, block_size: int) -> None:
        self._device = device
        self._places = places
        self._block_size = block_size
        self._last: _Decode | None = None

    def forget(self) -> None:
        """Another step's inputs lie there now."""
        self._last = None

    def put(self, inputs: StepInputs, sources: I64 | None, sizes: Sizes) -> None:
        """Put on the device what ``advance`` needs to make a step's inputs.

        Args:
            inputs: of the step.
            sources: the row of the step before that each token was drawn in, or FROM_HOST; None if
                the host knows them all.
            sizes: of the captured step.
        """
        if self._goes_on(inputs, sources, sizes):
            self._put_new_blocks(inputs, sizes)
        else:
            self._put_all(inputs, sources, sizes)
        self._last = _Decode(sizes["S"], inputs.lengths.copy())

    def pointers(self, sizes: Sizes, sampled: int, counters: int) -> list[int]:
        """What ``advance`` is launched with.

        Args:
            sizes: of the captured step.
            sampled: where the tokens of the step before lie.
            counters: where those of random numbers lie.
        """
        inputs = self._places.at(sizes["T"]).inputs
        found: Mapping[str, int] = {
            **inputs,
            "sampled": sampled,
            "host_tokens": inputs["token_ids"],
            "counters": counters,
        }
        return [found[name] for name in (*ADVANCE_OPERANDS, *ADVANCE_RESULTS)]

    def _goes_on(self, inputs: StepInputs, sources: I64 | None, sizes: Sizes) -> bool:
        """Whether each row is the sequence that it was in the decode before, one token on."""
        last, count = self._last, len(inputs.lengths)
        return (
            last is not None
            and sources is not None
            and last.size == sizes["S"]
            and len(last.lengths) == count
            and np.array_equal(sources, np.arange(count))
            and np.array_equal(inputs.lengths, last.lengths + 1)
        )

    def _put_new_blocks(self, inputs: StepInputs, sizes: Sizes) -> None:
        """Put the blocks that begin with this step's tokens there, if any does."""
        columns, places = np.divmod(inputs.positions, self._block_size)
        begins = places == 0
        if begins.any():
            blocks = inputs.tables[np.arange(len(columns)), columns]
            found = np.where(begins, blocks, np.int32(IN_TABLE))
            self._device.write(self._places.at(sizes["T"]).inputs["new_blocks"], found)

    def _put_all(self, inputs: StepInputs, sources: I64 | None, sizes: Sizes) -> None:
        """Put everything there as it was before the step's tokens."""
        count = len(inputs.lengths)
        given = np.full(sizes["S"], PADDING, np.int64)
        given[:count] = FROM_HOST if sources is None else sources
        self._places.write(padded(replace(inputs, lengths=inputs.lengths - 1), sizes), given)

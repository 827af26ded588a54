"""Weights of 8 or 4 bits as GPU kernels read them: what a program reads next lies next.

before:  integers i8[N, K] and scales f16[N, K / group], as ``quantize_weight`` gives them
after:   bytes i8[chunks, steps, 64, group] and scales f16[chunks, steps, halves, 64]

A chunk is sixty-four rows, and a step what a program takes of them at a time, so that whatever the
group, it reads whole lines of memory one after the other. Of 8 bits a step is a group, a byte each
column. Of 4 bits it is two groups, the halves of each byte: the low one of column ``k`` and the
high one of column ``k + group``, both without a sign: 8 more than they are. Four bytes of a row are
then four neighbours of either group, which a kernel turns into floats with one shift, two masks,
and one byte permutation for two of them. Scales lie by step and half, sixty-four rows side by side.

Rows may be taken in parts, such as the gate and the up projection of one matrix; each begins with a
chunk of its own. Rows and columns past the end are zeros with scales of zero.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations, starmap
from typing import Any

import numpy as np
import numpy.typing as npt

from graphopt.errors import IRError

Array = npt.NDArray[Any]
CHUNK_ROWS = 64
# Of columns that share a scale: a tile of a product is as deep.
GROUPS = (32, 64, 128)
# How much more than it is an integer of four bits is stored as.
FOUR_OFFSET = 8


@dataclass(frozen=True, slots=True)
class GpuPacking:
    """How a quantized weight is stored for a GPU.

    Attributes:
        rows: N.
        columns: K.
        bits: 8 or 4.
        group: columns that share a scale.
        parts: selections of rows as (start, stop, step); together they take every row once.
    """

    rows: int
    columns: int
    bits: int
    group: int
    parts: tuple[tuple[int, int, int], ...]

    def __post_init__(self) -> None:
        if self.bits not in (4, 8) or self.group not in GROUPS:
            raise IRError(
                "no GPU kernel reads such a weight",
                got=f"{self.bits} bits in groups of {self.group}",
                expected=f"4 or 8 bits in groups of {', '.join(map(str, GROUPS))}",
            )
        chosen = [range(*part) for part in self.parts]
        inside = all(len(one) and one[0] >= 0 and one[-1] < self.rows for one in chosen)
        if (
            not inside
            or any(starmap(_meet, combinations(chosen, 2)))
            or (sum(map(len, chosen)) != self.rows)
        ):
            raise IRError(
                "the parts of a packed weight do not take every row once",
                got=self.parts,
                expected=f"a partition of {self.rows} rows",
            )
        if self.columns < 1:
            raise IRError("a packed weight has no elements", got=self)

    @classmethod
    def whole(cls, rows: int, columns: int, bits: int, group: int) -> GpuPacking:
        """The packing of a matrix that is one part."""
        return cls(rows, columns, bits, group, ((0, rows, 1),))

    @property
    def halves(self) -> int:
        """Groups of one step."""
        return 8 // self.bits

    @property
    def steps(self) -> int:
        """How many steps there are along K."""
        return -(-self.columns // (self.group * self.halves))

    @property
    def groups(self) -> int:
        """Groups of a row as it was."""
        return -(-self.columns // self.group)

    @property
    def part_chunks(self) -> tuple[int, ...]:
        """Chunks of each part; they follow one another in this order."""
        return tuple(-(-len(range(*part)) // CHUNK_ROWS) for part in self.parts)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Of the stored bytes."""
        return sum(self.part_chunks), self.steps, CHUNK_ROWS, self.group

    @property
    def scales_shape(self) -> tuple[int, int, int, int]:
        """Of the stored scales."""
        return sum(self.part_chunks), self.steps, self.halves, CHUNK_ROWS


def pack_weight(integers: Array, scales: Array, packing: GpuPacking) -> tuple[Array, Array]:
    """The stored bytes and scales of a quantized weight.

    Args:
        integers: i8 ``[N, K]``.
        scales: f16 ``[N, K / group]``.
        packing: has the same N and K.

    Returns:
        i8 and f16 arrays of the packing's shapes.

    Raises:
        IRError: the arrays do not fit the packing.
    """
    _check(integers, (packing.rows, packing.columns), np.int8)
    _check(scales, (packing.rows, packing.groups), np.float16)
    stored = np.empty(packing.shape, dtype=np.int8)
    factors = np.zeros(packing.scales_shape, dtype=np.float16)
    halves, steps, group = packing.halves, packing.steps, packing.group
    for chunk, rows in _chunks(packing):
        count = len(range(*rows.indices(packing.rows)))
        padded = np.zeros((CHUNK_ROWS, steps * halves * group), dtype=np.int8)
        padded[:count, : packing.columns] = integers[rows]
        # [row, step, half, column]
        split = padded.reshape(CHUNK_ROWS, steps, halves, group)
        if halves == 2:
            raised = (split + np.int8(FOUR_OFFSET)).view(np.uint8)
            bytes_ = (raised[:, :, 0] | raised[:, :, 1] << np.uint8(4)).view(np.int8)
        else:
            bytes_ = split[:, :, 0]
        stored[chunk] = bytes_.transpose(1, 0, 2)
        widths = np.zeros((CHUNK_ROWS, steps * halves), dtype=np.float16)
        widths[:count, : packing.groups] = scales[rows]
        factors[chunk] = widths.reshape(CHUNK_ROWS, steps, halves).transpose(1, 2, 0)
    return stored, factors


def unpack_weight(stored: Array, factors: Array, packing: GpuPacking) -> tuple[Array, Array]:
    """The integers and scales that ``pack_weight`` stored.

    Raises:
        IRError: the arrays do not fit the packing.
    """
    _check(stored, packing.shape, np.int8)
    _check(factors, packing.scales_shape, np.float16)
    integers = np.empty((packing.rows, packing.columns), dtype=np.int8)
    scales = np.empty((packing.rows, packing.groups), dtype=np.float16)
    for chunk, rows in _chunks(packing):
        count = len(range(*rows.indices(packing.rows)))
        bytes_ = stored[chunk].transpose(1, 0, 2)
        if packing.halves == 2:
            raw = (
                bytes_.view(np.uint8) if bytes_.flags.c_contiguous else bytes_.copy().view(np.uint8)
            )
            both = np.stack([raw & np.uint8(15), raw >> np.uint8(4)], axis=2)
            split = both.astype(np.int8) - np.int8(FOUR_OFFSET)
        else:
            split = bytes_[:, :, None]
        integers[rows] = split.reshape(CHUNK_ROWS, -1)[:count, : packing.columns]
        widths = factors[chunk].transpose(2, 0, 1).reshape(CHUNK_ROWS, -1)
        scales[rows] = widths[:count, : packing.groups]
    return integers, scales


def _chunks(packing: GpuPacking) -> Iterator[tuple[int, slice]]:
    """Each chunk, and the rows of the weight that it holds."""
    number = 0
    for (start, stop, step), chunks in zip(packing.parts, packing.part_chunks, strict=True):
        for chunk in range(chunks):
            first = start + chunk * CHUNK_ROWS * step
            yield number, slice(first, min(stop, first + CHUNK_ROWS * step), step)
            number += 1


def _meet(one: range, other: range) -> bool:
    """Whether two selections of rows, which are no longer than a weight, share one."""
    return not set(one).isdisjoint(other)


def _check(array: Array, shape: tuple[int, ...], dtype: type) -> None:
    if array.shape != shape or array.dtype != dtype:
        raise IRError(
            "a quantized weight does not fit its packing",
            got=f"{array.dtype}{list(array.shape)}",
            expected=f"{np.dtype(dtype).name}{list(shape)}",
        )

"""Weights of 8 or 4 bits as GPU kernels read them: what a program reads next lies next.

before:  integers i8[N, K] and scales f16[N, K / group], as ``quantize_weight`` gives them
after:   bytes i8[chunks, steps, 64, group] and scales f16[chunks, steps, halves, 64]
         with one scale for each row: i8[chunks, steps, 64, 64] and f16[chunks, 1, 1, 64]

A chunk is sixty-four rows, and a step what a program takes of them at a time, so that whatever the
group, it reads whole lines of memory one after the other. Of 8 bits a step is a group, a byte each
column. Of 4 bits it is two groups, the halves of each byte: the low one of column ``k`` and the
high one of column ``k + group``, both without a sign: 8 more than they are. Four bytes of a row are
then four neighbours of either group, which a kernel turns into floats with one shift, two masks,
and one byte permutation for two of them. Scales lie by step and half, sixty-four rows side by side.

Rows may be taken in parts, such as the gate and the up projection of one matrix; each begins with a
chunk of its own. Rows and columns past the end are zeros with scales of zero.

Integers and scales are two tensors, stored apart: each has a packing that says which it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from graphopt.errors import ArtifactError, IRError
from graphopt.ir.dtype import DType
from graphopt.json_values import flag, whole
from graphopt.packing import MOST, Array, Part, check_parts, read_parts

CHUNKS = "chunks"  # what ``plan.json`` calls such a layout
CHUNK_ROWS = 64
# Of columns that share a scale: a tile of a product is as deep.
GROUPS = (32, 64, 128)
# How deep a tile is where all columns of a row share a scale.
DEPTH = 64
# How much more than it is an integer of four bits is stored as.
FOUR_OFFSET = 8


@dataclass(frozen=True, slots=True)
class GpuPacking:
    """How the integers, or the scales, of a quantized weight are stored for a GPU.

    Attributes:
        rows: N.
        columns: K.
        bits: 8 or 4.
        group: columns that share a scale; where it is none of ``GROUPS``, all of them.
        parts: selections of rows as (start, stop, step); together they take every row once.
        is_scales: whether it is the scales that are stored so.
    """

    rows: int
    columns: int
    bits: int
    group: int
    parts: tuple[Part, ...]
    is_scales: bool = False

    def __post_init__(self) -> None:
        if self.bits not in (4, 8) or (self.is_whole and self.group < self.columns):
            raise IRError(
                "no GPU kernel reads such a weight",
                got=f"{self.bits} bits in groups of {self.group}",
                expected=f"4 or 8 bits in groups of {', '.join(map(str, GROUPS))}, or whole rows",
            )
        if min(self.rows, self.columns) < 1:
            raise IRError("a packed weight has no elements", got=self)
        check_parts(self.rows, self.parts)

    @classmethod
    def whole(cls, rows: int, columns: int, bits: int, group: int) -> GpuPacking:
        """The packing of a matrix that is one part."""
        return cls(rows, columns, bits, group, ((0, rows, 1),))

    @property
    def scales(self) -> GpuPacking:
        """The packing of the scales of the same weight."""
        return replace(self, is_scales=True)

    @property
    def is_whole(self) -> bool:
        """Whether all columns of a row share a scale."""
        return self.group not in GROUPS

    @property
    def depth(self) -> int:
        """Columns of one half of a step."""
        return DEPTH if self.is_whole else self.group

    @property
    def halves(self) -> int:
        """Halves of each byte: runs of ``depth`` columns in one step."""
        return 8 // self.bits

    @property
    def steps(self) -> int:
        """How many steps there are along K."""
        return -(-self.columns // (self.depth * self.halves))

    @property
    def groups(self) -> int:
        """Groups of a row as it was."""
        return -(-self.columns // self.group)

    @property
    def part_chunks(self) -> tuple[int, ...]:
        """Chunks of each part; they follow one another in this order."""
        return tuple(-(-len(range(*part)) // CHUNK_ROWS) for part in self.parts)

    @property
    def dtype(self) -> DType:
        """Of the tensor, stored or not."""
        return DType.F16 if self.is_scales else DType.I8

    @property
    def plain(self) -> tuple[int, int]:
        """The shape of the tensor as it was."""
        return self.rows, self.groups if self.is_scales else self.columns

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """The shape of what is stored."""
        chunks = sum(self.part_chunks)
        if self.is_scales:
            return chunks, *((1, 1) if self.is_whole else (self.steps, self.halves)), CHUNK_ROWS
        return chunks, self.steps, CHUNK_ROWS, self.depth

    def to_json(self) -> dict[str, Any]:
        """Plain data for ``plan.json``."""
        return {
            "kind": CHUNKS,
            "rows": self.rows,
            "columns": self.columns,
            "bits": self.bits,
            "group": self.group,
            "parts": [list(part) for part in self.parts],
            "scales": self.is_scales,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> GpuPacking:
        """The packing that ``to_json`` wrote.

        Raises:
            ArtifactError: the data is not a packing.
        """
        try:
            return cls(
                rows=whole(data["rows"], 0, MOST),
                columns=whole(data["columns"], 0, MOST),
                bits=whole(data["bits"], 0, MOST),
                group=whole(data["group"], 0, MOST),
                parts=read_parts(data["parts"]),
                is_scales=flag(data["scales"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError, IRError) as error:
            raise ArtifactError(
                "layout of a weight is not readable", got=f"{type(error).__name__}: {error}"
            ) from error


def pack_weight(integers: Array, scales: Array, packing: GpuPacking) -> tuple[Array, Array]:
    """The stored bytes and scales of a quantized weight.

    Args:
        integers: i8 ``[N, K]``.
        scales: f16 ``[N, K / group]``.
        packing: has the same N and K.

    Raises:
        IRError: the arrays do not fit the packing.
    """
    return pack_chunks(integers, packing), pack_chunks(scales, packing.scales)


def pack_chunks(array: Array, packing: GpuPacking) -> Array:
    """The stored array of a weight's integers or of its scales, as ``packing`` says.

    Args:
        array: i8 ``[N, K]``, or f16 ``[N, K / group]``.
        packing: has the same N and K.

    Returns:
        An array of the packing's shape.

    Raises:
        IRError: the array does not fit the packing.
    """
    _check(array, packing.plain, packing)
    stored = np.empty(packing.shape, dtype=array.dtype)
    columns = packing.plain[1]
    if packing.is_scales:
        _, steps, halves, _ = packing.shape
        wide = 1
    else:
        steps, halves, wide = packing.steps, packing.halves, packing.depth
    for chunk, rows in _chunks(packing):
        part = array[rows]
        padded = np.zeros((CHUNK_ROWS, steps * halves * wide), dtype=array.dtype)
        padded[: len(part), :columns] = part
        split = padded.reshape(CHUNK_ROWS, steps, halves, wide)  # [row, step, half, column]
        if packing.is_scales:
            stored[chunk] = split[..., 0].transpose(1, 2, 0)
        elif halves == 2:
            raised = (split + np.int8(FOUR_OFFSET)).view(np.uint8)
            both = (raised[:, :, 0] | raised[:, :, 1] << np.uint8(4)).view(np.int8)
            stored[chunk] = both.transpose(1, 0, 2)
        else:
            stored[chunk] = split[:, :, 0].transpose(1, 0, 2)
    return stored


def unpack_chunks(stored: Array, packing: GpuPacking) -> Array:
    """The integers, or the scales, that ``pack_chunks`` stored.

    Raises:
        IRError: the array does not fit the packing.
    """
    _check(stored, packing.shape, packing)
    array = np.empty(packing.plain, dtype=stored.dtype)
    columns = packing.plain[1]
    for chunk, rows in _chunks(packing):
        if packing.is_scales:
            split = stored[chunk].transpose(2, 0, 1)
        elif packing.halves == 2:
            raw = np.ascontiguousarray(stored[chunk].transpose(1, 0, 2)).view(np.uint8)
            both = np.stack([raw & np.uint8(15), raw >> np.uint8(4)], axis=2)
            split = both.view(np.int8) - np.int8(FOUR_OFFSET)
        else:
            split = stored[chunk].transpose(1, 0, 2)
        part = array[rows]
        part[:] = split.reshape(CHUNK_ROWS, -1)[: len(part), :columns]
    return array


def _chunks(packing: GpuPacking) -> Iterator[tuple[int, slice]]:
    """Each chunk, and the rows of the weight that it holds."""
    number = 0
    for (start, stop, step), chunks in zip(packing.parts, packing.part_chunks, strict=True):
        for chunk in range(chunks):
            first = start + chunk * CHUNK_ROWS * step
            yield number, slice(first, min(stop, first + CHUNK_ROWS * step), step)
            number += 1


def _check(array: Array, shape: tuple[int, ...], packing: GpuPacking) -> None:
    dtype = np.dtype(np.float16 if packing.is_scales else np.int8)
    if array.shape != shape or array.dtype != dtype:
        raise IRError(
            "a quantized weight does not fit its packing",
            got=f"{array.dtype}{list(array.shape)}",
            expected=f"{dtype.name}{list(shape)}",
        )

"""Weights as C++ kernels read them: panels of sixteen rows, the same for every instruction set.

before:  a matrix ``[N, K]``, or one per expert or head ``[batch, N, K]``; or ``[.., K, N]``
after:   panels ``[batch, panels, K/pair, 16, pair]``, where ``pair`` elements fill four bytes

A panel is contiguous, and a step through it gives sixteen rows the next ``pair`` columns each, so
that one register of a kernel holds sixteen sums. Rows are padded with zeros to whole panels,
columns to whole pairs. A layout may take the rows in parts, such as the gate and the up projection
of one matrix; each begins with a panel of its own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, starmap
from typing import Any

import numpy as np
import numpy.typing as npt

from graphopt.errors import ArtifactError, IRError
from graphopt.ir.dtype import DType
from graphopt.json_values import flag, text, whole, wholes

PANELS = "panels"  # what ``plan.json`` calls such a layout
PANEL = 16  # rows
UNIT_BYTES = 4  # of one row, that stand together
MOST = 1 << 40  # rows, columns or matrices, wherever they are read from
_MOST_GROUP = 1 << 12  # columns
PAIR_SCALES_BYTES = 64  # of two groups of a quantized panel: sixteen f16s each
Array = npt.NDArray[Any]
# A selection of rows: start, stop, step.
Part = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Quant:
    """Weights in few bits: groups along ``K`` with a scale each.

    Attributes:
        bits: of one weight.
        group: columns that share a scale.
    """

    bits: int
    group: int

    def groups(self, columns: int) -> int:
        """Groups of so many columns."""
        return -(-columns // self.group)

    @property
    def group_bytes(self) -> int:
        """Bytes of a panel's integers in one group."""
        return PANEL * self.group * self.bits // 8

    def panel_bytes(self, columns: int) -> int:
        """Bytes of a panel of so many columns; ``quantization`` says where each is."""
        groups = self.groups(columns)
        return -(-groups // 2) * PAIR_SCALES_BYTES + groups * self.group_bytes


@dataclass(frozen=True, slots=True)
class Layout:
    """How a weight is stored.

    Attributes:
        rows: N, of one matrix.
        columns: K.
        parts: selections of rows as (start, stop, step); together they take every row once.
        batch: matrices: experts, or heads.
        quant: how the weights are quantized; None for floats.
        transposed: whether the model has it as ``[K, N]``.
        scales: name of the weight that holds its scales, which are stored with it.
    """

    rows: int
    columns: int
    parts: tuple[Part, ...]
    batch: int = 1
    quant: Quant | None = None
    transposed: bool = False
    scales: str = ""

    def __post_init__(self) -> None:
        if min(self.rows, self.columns, self.batch) < 1:
            raise IRError("a packed weight has no elements", got=self)
        check_parts(self.rows, self.parts)

    @classmethod
    def whole(
        cls,
        rows: int,
        columns: int,
        *,
        batch: int = 1,
        quant: Quant | None = None,
        transposed: bool = False,
    ) -> Layout:
        """The layout of a matrix that is one part."""
        return cls(rows, columns, ((0, rows, 1),), batch, quant, transposed)

    @property
    def part_rows(self) -> tuple[int, ...]:
        """Rows of each part."""
        return tuple(len(range(*part)) for part in self.parts)

    @property
    def part_panels(self) -> tuple[int, ...]:
        """Panels of each part; they follow one another in this order."""
        return tuple(-(-rows // PANEL) for rows in self.part_rows)

    @property
    def panels(self) -> int:
        """Panels of one matrix."""
        return sum(self.part_panels)

    def to_json(self) -> dict[str, Any]:
        """Plain data for ``plan.json``."""
        quant = self.quant and {"bits": self.quant.bits, "group": self.quant.group}
        return {
            "kind": PANELS,
            "rows": self.rows,
            "columns": self.columns,
            "parts": [list(part) for part in self.parts],
            "batch": self.batch,
            "quant": quant,
            "transposed": self.transposed,
            "scales": self.scales,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Layout:
        """The layout that ``to_json`` wrote.

        Raises:
            ArtifactError: the data is not a layout.
        """
        try:
            return cls(
                rows=whole(data["rows"], 0, MOST),
                columns=whole(data["columns"], 0, MOST),
                parts=read_parts(data["parts"]),
                batch=whole(data["batch"], 0, MOST),
                quant=_quant(data["quant"]),
                transposed=flag(data["transposed"]),
                scales=text(data["scales"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError, IRError) as error:
            raise ArtifactError(
                "layout of a weight is not readable", got=f"{type(error).__name__}: {error}"
            ) from error


def check_parts(rows: int, parts: Sequence[Part]) -> None:
    """Demand that selections of rows together take every row once.

    Raises:
        IRError: they do not.
    """
    for start, stop, step in parts:
        if not (0 <= start < stop <= rows and step >= 1):
            raise IRError(
                "a part of a packed weight has no such rows",
                got=f"rows {start}:{stop}:{step}",
                expected=f"a selection of 0:{rows}",
            )
    # By arithmetic, for whoever wrote the numbers may have meant to fill the memory.
    ranges = [range(*part) for part in parts]
    if any(starmap(_meet, combinations(ranges, 2))) or sum(map(len, ranges)) != rows:
        raise IRError(
            "the parts of a packed weight do not take every row once",
            got=parts,
            expected=f"a partition of {rows} rows",
        )


def _meet(one: range, other: range) -> bool:
    """Whether two selections of rows have a row in common."""
    common = math.gcd(one.step, other.step)
    ahead, odd = divmod(other.start - one.start, common)
    if odd:
        return False
    turns = other.step // common
    row = one.start + one.step * (ahead * pow(one.step // common, -1, turns) % turns)
    every = one.step * turns  # rows that both selections would take, were they endless
    least = max(one.start, other.start)
    row += -((row - least) // every) * every if row < least else 0
    return row < min(one.stop, other.stop)


def read_parts(values: Any) -> tuple[Part, ...]:
    """Selections of rows out of lists.

    Raises:
        TypeError: one is no list of integers.
        ValueError: one is too long, too short, or of large numbers.
    """
    found = []
    for value in values:
        start, stop, step = wholes(value, -MOST, MOST)
        found.append((start, stop, step))
    return tuple(found)


def _quant(value: Any) -> Quant | None:
    if value is None:
        return None
    quant = Quant(whole(value["bits"], 0, MOST), whole(value["group"], 0, MOST))
    if quant.bits not in (4, 8) or not 1 <= quant.group <= _MOST_GROUP:
        raise ValueError(f"{quant} is not how weights are quantized")
    return quant


def pair_of(dtype: DType) -> int:
    """Elements of one row that stand together.

    Raises:
        IRError: kernels read no weights of this type.
    """
    if dtype not in (DType.F32, DType.BF16, DType.F16):
        raise IRError("weights of this type are not packed", got=dtype, expected="f32, bf16 or f16")
    return UNIT_BYTES // dtype.nbytes


def stored_type(layout: Layout, dtype: DType) -> tuple[DType, tuple[int, ...]]:
    """Element type and shape of the stored array of a weight of ``dtype``.

    A quantized weight is stored as bytes, its scales among them, whatever its ``dtype``.
    """
    if layout.quant is not None:
        return DType.U8, (layout.batch, layout.panels, layout.quant.panel_bytes(layout.columns))
    pair = pair_of(dtype)
    return dtype, (layout.batch, layout.panels, -(-layout.columns // pair), PANEL, pair)


def pack(array: Array, layout: Layout) -> Array:
    """The stored array of a weight.

    Args:
        array: ``[N, K]`` or ``[batch, N, K]`` (``[.., K, N]`` if the layout is transposed), of
            f32, f16, or bf16 as uint16.
        layout: has the same N, K and batch, and no quantization.

    Returns:
        ``[batch, panels, K/pair, 16, pair]``, of the same type.
    """
    pair = _array_pair(array, layout)
    if layout.transposed:
        matrices = array.reshape(layout.batch, layout.columns, layout.rows).swapaxes(1, 2)
    else:
        matrices = array.reshape(layout.batch, layout.rows, layout.columns)
    units = -(-layout.columns // pair)
    stored = np.empty((layout.batch, layout.panels, units, PANEL, pair), dtype=array.dtype)
    whole = _as_units(stored)[..., 0]
    first = 0
    for part, rows, panels in zip(layout.parts, layout.part_rows, layout.part_panels, strict=True):
        full = rows // PANEL
        for matrix, target in zip(matrices, whole[:, first : first + panels], strict=True):
            source = _units_of(matrix[slice(*part)], pair)
            target[:full] = _turned(source[: full * PANEL].reshape(full, PANEL, units))
            if full < panels:
                target[full] = 0
                target[full, :, : rows % PANEL] = source[full * PANEL :].T
        first += panels
    return stored


def unpack(stored: Array, layout: Layout) -> Array:
    """The weight that ``pack`` was given; a batch of one has no dimension of its own."""
    pair = _array_pair(stored, layout)
    units = -(-layout.columns // pair)
    whole = _as_units(
        np.ascontiguousarray(stored).reshape(layout.batch, layout.panels, units, PANEL, pair)
    )[..., 0]
    padded = np.empty((layout.batch, layout.rows, units * pair), dtype=stored.dtype)
    matrices = _as_units(padded)
    first = 0
    for part, rows, panels in zip(layout.parts, layout.part_rows, layout.part_panels, strict=True):
        for source, matrix in zip(whole[:, first : first + panels], matrices, strict=True):
            straight = np.ascontiguousarray(_turned(source)).reshape(panels * PANEL, units)
            matrix[slice(*part)] = straight[:rows]
        first += panels
    result = padded[..., : layout.columns]
    if layout.transposed:
        result = result.swapaxes(1, 2)
    return np.ascontiguousarray(result if layout.batch > 1 else result[0])


def _array_pair(array: Array, layout: Layout) -> int:
    """Elements of ``array`` that stand together; refuses what these two functions cannot pack."""
    if layout.quant is not None or array.dtype not in (np.float32, np.float16, np.uint16):
        raise IRError(
            "only weights of f32, f16 and bf16 are packed as they are",
            got=f"{array.dtype} for {layout}",
            expected="float32, float16, or uint16 with the bits of bf16; no quantization",
        )
    return UNIT_BYTES // array.dtype.itemsize


def _as_units(array: Array) -> Array:
    """``array`` with the elements that stand together as one integer; its last axis is whole."""
    return array.view(np.uint32)


def _units_of(matrix: Array, pair: int) -> Array:
    """The rows of a matrix ``[n, K]`` as ``[n, K/pair]`` units, padded with zero columns."""
    odd = -matrix.shape[1] % pair
    if odd:
        matrix = np.pad(matrix, ((0, 0), (0, odd)))
    if matrix.strides[1] != matrix.itemsize:
        matrix = np.ascontiguousarray(matrix)
    return _as_units(matrix)


def _turned(panels: Array) -> Array:
    return panels.transpose(0, 2, 1)


def stored_bytes(layout: Layout, dtype: DType) -> int:
    """Bytes of the stored array."""
    kind, shape = stored_type(layout, dtype)
    return kind.nbytes * math.prod(shape)

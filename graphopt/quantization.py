"""Weights of 8 or 4 bits as C++ kernels read them; gemm_quant.h reads what is written here.

before:  integers i8[N, K] and scales f16[N, K / group] of a matrix, as ``quantize_weight`` gives
         them, or one of each per expert ``[batch, ...]``
after:   panels u8[batch, panels, bytes] of sixteen rows each

A panel holds its groups in pairs: sixteen scales of each of the two, then the integers of the first
and those of the second. The last group has no partner if their number is odd; its scales take as
much room. Integers stand in vectors of 64 bytes, four bytes of each row: of 8 bits the next four
columns, of 4 bits the next four in the low halves and four more in the high ones, all of them
without a sign: 128 or 8 more than they are. Rows and columns past the end are zeros.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from graphopt.errors import IRError
from graphopt.packing import PAIR_SCALES_BYTES, PANEL, Array, Layout, Quant

FOUR = 4  # columns whose products a kernel adds up at once
# What kernels exist for: bits, and the columns of a group. More columns take fewer bytes for their
# scales: on the demo checkpoint's held-out text 8 bits cost nothing in groups of 32, 64 or 128
# (perplexity within 0.3 %); 128 would pad a row of 576 or 2880 by a tenth or a fortieth.
GROUPS = {8: 64, 4: 32}
# Numbers that are packed together, so that they stay in a core's second-level cache.
CHUNK = 1 << 18


def quant_of(bits: int) -> Quant:
    """The quantization that kernels read, by its number of bits."""
    return Quant(bits, GROUPS[bits])


def pack_quantized(integers: Array, scales: Array, layout: Layout) -> npt.NDArray[np.uint8]:
    """The stored array of a quantized weight.

    Args:
        integers: i8 ``[N, K]`` or ``[batch, N, K]``, of which a batch of one may be either.
        scales: f16 ``[N, K / group]``, with the same batch.
        layout: has the same N, K and batch.

    Returns:
        u8 ``[batch, panels, panel_bytes]``.

    Raises:
        IRError: the arrays do not fit the layout.
    """
    quant, groups = _checked(integers, scales, layout)
    matrices = integers.reshape(layout.batch, layout.rows, layout.columns)
    factors = scales.reshape(layout.batch, layout.rows, groups)
    stored = np.empty(
        (layout.batch, layout.panels, quant.panel_bytes(layout.columns)), dtype=np.uint8
    )
    for index in range(layout.batch):
        for place, rows in _chunks(layout):
            panels = stored[index, place]
            _write(panels, matrices[index, rows], factors[index, rows], quant)
    return stored


def unpack_quantized(stored: Array, layout: Layout) -> tuple[Array, Array]:
    """The integers and scales that ``pack_quantized`` stored; a batch of one has no dimension.

    Raises:
        IRError: the array does not fit the layout.
    """
    quant = _quant(layout)
    shape = (layout.batch, layout.panels, quant.panel_bytes(layout.columns))
    if stored.shape != shape or stored.dtype != np.uint8:
        raise _misfit(f"{stored.dtype}{list(stored.shape)}", f"uint8{list(shape)}")
    groups = quant.groups(layout.columns)
    integers = np.empty((layout.batch, layout.rows, layout.columns), dtype=np.int8)
    scales = np.empty((layout.batch, layout.rows, groups), dtype=np.float16)
    for index in range(layout.batch):
        for place, rows in _chunks(layout):
            count = len(range(*rows.indices(layout.rows)))
            whole, factors = _read(stored[index, place], quant, groups)
            integers[index, rows] = whole[:count, : layout.columns]
            scales[index, rows] = factors[:count]
    return (integers, scales) if layout.batch > 1 else (integers[0], scales[0])


def _quant(layout: Layout) -> Quant:
    quant = layout.quant
    if quant is None or GROUPS.get(quant.bits) != quant.group or layout.transposed:
        expected = " or ".join(f"{bits} bits in groups of {GROUPS[bits]}" for bits in GROUPS)
        raise _misfit(str(layout), f"{expected}, not transposed")
    return quant


def _checked(integers: Array, scales: Array, layout: Layout) -> tuple[Quant, int]:
    quant = _quant(layout)
    groups = quant.groups(layout.columns)
    batch = (layout.batch,) if layout.batch > 1 or integers.ndim > 2 else ()
    for array, wanted, dtype in (
        (integers, (*batch, layout.rows, layout.columns), np.int8),
        (scales, (*batch, layout.rows, groups), np.float16),
    ):
        if array.shape != wanted or array.dtype != dtype:
            raise _misfit(
                f"{array.dtype}{list(array.shape)}", f"{np.dtype(dtype).name}{list(wanted)}"
            )
    return quant, groups


def _misfit(got: str, expected: str) -> IRError:
    return IRError("a quantized weight does not fit its layout", got=got, expected=expected)


def _chunks(layout: Layout) -> Iterator[tuple[slice, slice]]:
    """Panels that are written together, and the rows of the weight that they hold."""
    step = max(1, CHUNK // (PANEL * layout.columns))
    first = 0
    for (start, stop, stride), panels in zip(layout.parts, layout.part_panels, strict=True):
        for panel in range(0, panels, step):
            count = min(step, panels - panel)
            begin = start + panel * PANEL * stride
            end = min(stop, begin + count * PANEL * stride)
            yield slice(first + panel, first + panel + count), slice(begin, end, stride)
        first += panels


def _write(panels: Array, integers: Array, scales: Array, quant: Quant) -> None:
    """Pack up to ``16 len(panels)`` rows into ``panels``, u8 ``[panels, panel_bytes]``."""
    count, rows, groups = len(panels), len(integers), scales.shape[1]
    offset = 1 << (quant.bits - 1)
    padded = np.full((count * PANEL, groups * quant.group), offset, dtype=np.uint8)
    padded[:rows, : integers.shape[1]] = integers.view(np.uint8) + np.uint8(offset)
    if quant.bits == 4:
        halves = padded.reshape(len(padded), -1, 2, FOUR)
        padded = halves[:, :, 0] | halves[:, :, 1] << np.uint8(4)
    fours = padded.reshape(count, PANEL, -1).view(np.uint32).transpose(0, 2, 1)
    vectors = np.ascontiguousarray(fours).view(np.uint8).reshape(count, groups, -1)
    factors = np.zeros((count * PANEL, groups + groups % 2), dtype=np.float16)
    factors[:rows, :groups] = scales
    turned = factors.reshape(count, PANEL, -1).transpose(0, 2, 1)
    for place, size, pairs, first in _pairs(quant, groups):
        part = panels[:, place : place + pairs * size].reshape(count, pairs, size)
        many = min(2 * pairs, groups - first)
        part[..., :PAIR_SCALES_BYTES] = (
            np.ascontiguousarray(turned[:, first : first + 2 * pairs])
            .view(np.uint8)
            .reshape(count, pairs, PAIR_SCALES_BYTES)
        )
        part[..., PAIR_SCALES_BYTES:] = vectors[:, first : first + many].reshape(count, pairs, -1)


def _read(panels: Array, quant: Quant, groups: int) -> tuple[Array, Array]:
    """The padded integers and scales ``[16 len(panels), ...]`` that ``_write`` packed."""
    count, offset = len(panels), np.uint8(1 << (quant.bits - 1))
    vectors = np.empty((count, groups, quant.group_bytes), dtype=np.uint8)
    turned = np.empty((count, groups + groups % 2, PANEL), dtype=np.float16)
    for place, size, pairs, first in _pairs(quant, groups):
        part = panels[:, place : place + pairs * size].reshape(count, pairs, size)
        many = min(2 * pairs, groups - first)
        turned[:, first : first + 2 * pairs] = (
            np.ascontiguousarray(part[..., :PAIR_SCALES_BYTES])
            .view(np.float16)
            .reshape(count, 2 * pairs, PANEL)
        )
        vectors[:, first : first + many] = part[..., PAIR_SCALES_BYTES:].reshape(count, many, -1)
    fours = vectors.reshape(count, -1).view(np.uint32).reshape(count, -1, PANEL)
    bytes_ = np.ascontiguousarray(fours.transpose(0, 2, 1)).view(np.uint8)
    bytes_ = bytes_.reshape(count * PANEL, -1)
    if quant.bits == 4:
        halves = bytes_.reshape(len(bytes_), -1, 1, FOUR)
        both = np.concatenate([halves & np.uint8(15), halves >> np.uint8(4)], axis=2)
        bytes_ = both.reshape(len(bytes_), -1)
    scales = turned[:, :groups].transpose(0, 2, 1).reshape(count * PANEL, groups)
    return (bytes_ - offset).view(np.int8), scales


def _pairs(quant: Quant, groups: int) -> Iterator[tuple[int, int, int, int]]:
    """Runs of alike pairs of groups: first byte, bytes of a pair, pairs, first group."""
    pair = PAIR_SCALES_BYTES + 2 * quant.group_bytes
    if groups > 1:
        yield 0, pair, groups // 2, 0
    if groups % 2:
        yield groups // 2 * pair, PAIR_SCALES_BYTES + quant.group_bytes, 1, groups - 1

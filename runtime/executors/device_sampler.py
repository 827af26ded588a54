"""Logits to tokens on a GPU, by the kernel ``sample`` of an artifact.

before:  logits [R, V] on the device, and each row's parameters on the host
after:   20 bytes a row on the host, and log-probabilities where somebody asks for them

A step's parameters are one copy there and its results one copy back. The kernel works in a few
vocabularies of memory for each row, so many rows are sampled some at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from graphopt.errors import UsageError
from graphopt.ir.shape import evaluate
from graphopt.launch import LaunchKernel
from graphopt.loop_kernels import SAMPLE, SAMPLE_OPERANDS, SAMPLE_RESULTS
from graphopt.safetensors_io import numpy_dtype

from ..executor import Ragged, Sampled, SamplingInputs
from .device import Bytes, Device, rounded

# Most memory that the kernel works in, if that is enough for 16 rows: the 64 rows of a usual decode
# are one launch for a vocabulary of 152k, whose rows take 2.6 MB each.
WORK_BYTES = 256 << 20
# Rows are sampled in multiples of so many, so that every part of an array is aligned.
_ROWS = 16

Array = npt.NDArray[Any]


class DeviceSampler:
    """Samples rows of one width.

    Args:
        device: where.
        kernel: how ``sample`` is launched.
        read: gives its cubins.
        vocab_size: V.
        most_rows: most rows in a step.

    Attributes:
        results: where the tokens of the last step lie, i64[R].

    Raises:
        MachineError: there is not enough memory.
    """

    def __init__(
        self,
        device: Device,
        kernel: LaunchKernel,
        read: Callable[[str, str], bytes],
        vocab_size: int,
        most_rows: int,
    ) -> None:
        self._device = device
        self._vocab = vocab_size
        logits = kernel.pointers[0]
        self._row_bytes = vocab_size * (logits.nbytes if logits else 0)
        self._rows = rows_at_once(kernel, most_rows)
        self._kernels = device.kernels({SAMPLE: kernel}, read)
        self._kernels.reserve({"R": self._rows, "K": 0})
        # Where the operands of the step before are; its rows, if these were plainly greedy.
        self._addresses: list[list[int]] = []
        self._plain = 0
        self._operands = _Block(device, "parameters of sampling")
        self._results = _Block(device, "sampled tokens")
        self._results.at_least(_results_of(most_rows, 0)[1])

    @property
    def results(self) -> int:
        """Where the tokens of the last step lie, i64[R]."""
        return self._results.address

    def start(self, logits: int, inputs: SamplingInputs) -> Callable[[], Sampled]:
        """Choose or score one token per row; calling the answer waits for them.

        Args:
            logits: address of [R, V].
            inputs: parameters of the R rows.

        Raises:
            UsageError: a target is no token.
            MachineError: there is not enough memory; or, by the answer, the device failed.
        """
        rows = inputs.num_rows
        if not rows:
            return lambda: _nothing(inputs)
        if inputs.targets is not None and inputs.targets.max(initial=-1) >= self._vocab:
            raise UsageError(
                "a target is no token", got=inputs.targets.max(), expected=f"below {self._vocab}"
            )
        most = _most_reported(inputs, self._vocab)
        offsets, end = _results_of(rows, most)
        results = self._results.at_least(end)
        starts = range(0, rows, self._rows)
        for start, places in zip(starts, self._placed(inputs, starts), strict=True):
            count = min(self._rows, rows - start)
            made = [
                results + offset + start * (most if name.startswith("top_") else 1) * dtype.nbytes
                for (name, dtype), offset in zip(SAMPLE_RESULTS.items(), offsets, strict=True)
            ]
            pointers = [logits + start * self._row_bytes, *places, *made]
            self._kernels.launch(SAMPLE, pointers, {"R": count, "K": most})
        # The first two arrays are all that most steps need.
        wanted = end if inputs.num_logprobs is not None else offsets[2]
        fetched = self._device.fetch(results, wanted)
        return lambda: _sampled(fetched(), offsets, inputs, most)

    def workspaces(self) -> Mapping[str, int]:
        """What the kernel keeps, by a name for it."""
        return self._kernels.workspaces()

    def close(self) -> None:
        """Give the memory back."""
        self._kernels.close()
        self._operands.close()
        self._results.close()

    def _placed(self, inputs: SamplingInputs, starts: Iterable[int]) -> list[list[int]]:
        """Addresses of all arrays for the rows that begin at each of ``starts``.

        Of greedy rows without further wishes they are always the same, and there already if the
        step before had as many.
        """
        rows = inputs.num_rows
        is_plain = all(getattr(inputs, field.name) is None for field in fields(inputs)[1:])
        if not (is_plain and self._plain == rows):
            parts = [operands(inputs.slice(n, min(rows, n + self._rows))) for n in starts]
            self._addresses = self._put(parts)
            self._plain = rows if is_plain else 0
        return self._addresses

    def _put(self, parts: list[dict[str, Array]]) -> list[list[int]]:
        """Addresses of all arrays of each part, which are copied at once."""
        arrays = [part[name] for part in parts for name in SAMPLE_OPERANDS]
        offsets, end = [], 0
        for array in arrays:
            offsets.append(end)
            end += rounded(array.nbytes)
        staged = np.zeros(end, dtype=np.uint8)
        for array, offset in zip(arrays, offsets, strict=True):
            staged[offset : offset + array.nbytes] = array.view(np.uint8)
        base = self._operands.at_least(end)
        self._device.write(base, staged)
        each = len(SAMPLE_OPERANDS)
        places = [base + offset for offset in offsets]
        return [places[n : n + each] for n in range(0, len(places), each)]


def rows_at_once(kernel: LaunchKernel, most_rows: int) -> int:
    """How many rows are sampled in one launch, for its workspace not to be large."""
    each = max(1, evaluate(kernel.workspace, {"R": _ROWS, "K": 0}))
    return min(-(-most_rows // _ROWS), max(1, WORK_BYTES // each)) * _ROWS


def operands(inputs: SamplingInputs) -> dict[str, Array]:
    """All arrays that the kernel reads, by name; what no row uses is there too.

    Raises:
        UsageError: rows have a temperature, and no seeds.
    """
    rows = inputs.num_rows
    if inputs.temperature is not None:
        inputs.randomness()
    penalties = inputs.penalties
    seen = _lists(penalties.seen if penalties else None, rows)
    bias, allowed, banned = (
        _lists(one, rows) for one in (inputs.bias, inputs.allowed, inputs.banned)
    )

    def column(values: Array | None, fill: float, dtype: type[np.generic]) -> Array:
        if values is None:
            return np.full(rows, fill, dtype)
        return np.ascontiguousarray(values.astype(dtype, copy=False))

    values = (
        column(inputs.targets, -1, np.int64),
        column(inputs.temperature, 0, np.float32),
        column(inputs.top_k, 0, np.int64),
        column(inputs.top_p, 1, np.float32),
        column(inputs.min_p, 0, np.float32),
        *bias,
        *allowed[:2],
        *banned[:2],
        *seen,
        column(penalties.repetition if penalties else None, 1, np.float32),
        column(penalties.presence if penalties else None, 0, np.float32),
        column(penalties.frequency if penalties else None, 0, np.float32),
        column(inputs.seeds, 0, np.int64),
        column(inputs.streams, 0, np.int64),
        column(inputs.counters, 0, np.int64),
        column(inputs.num_logprobs, -1, np.int64),
    )
    return dict(zip(SAMPLE_OPERANDS, values, strict=True))


def _lists(ragged: Ragged | None, rows: int) -> tuple[Array, Array, Array]:
    """Where each row's entries start, their tokens and their values."""
    if ragged is None:
        return np.zeros(rows + 1, np.int64), np.zeros(1, np.int64), np.zeros(1, np.float32)
    # Of no entries there is no memory.
    values = np.append(ragged.values, np.float32(0))
    return ragged.starts, np.append(ragged.tokens, 0), values


@dataclass
class _Block:
    """Memory that grows."""

    device: Device
    what: str
    address: int = 0
    nbytes: int = 0

    def at_least(self, nbytes: int) -> int:
        """Its address, with room for so many bytes; what it held is lost when it moves."""
        if nbytes > self.nbytes:
            self.close()
            self.address = self.device.allocate(nbytes, self.what)
            self.nbytes = nbytes
        return self.address

    def close(self) -> None:
        if self.nbytes:
            self.device.free(self.address)
        self.address = self.nbytes = 0


def _results_of(rows: int, most: int) -> tuple[list[int], int]:
    """Where the arrays of ``SAMPLE_RESULTS`` lie, one after the other, and where they end."""
    offsets, end = [], 0
    for name, dtype in SAMPLE_RESULTS.items():
        offsets.append(end)
        count = rows * (most if name.startswith("top_") else 1)
        end += rounded(max(1, count) * dtype.nbytes)  # of nothing there is an address, too
    return offsets, end


def _most_reported(inputs: SamplingInputs, vocab_size: int) -> int:
    """K: how many of the likeliest tokens some row wants."""
    if inputs.num_logprobs is None:
        return 0
    return max(0, min(int(inputs.num_logprobs.max(initial=0)), vocab_size))


def _sampled(found: Bytes, offsets: list[int], inputs: SamplingInputs, most: int) -> Sampled:
    rows = inputs.num_rows

    def array(place: int, count: int) -> Array:
        dtype = np.dtype(numpy_dtype(tuple(SAMPLE_RESULTS.values())[place]))
        start = offsets[place]
        return found[start : start + count * dtype.itemsize].view(dtype)

    status = array(1, rows)
    kept = status if status.any() else None
    if inputs.num_logprobs is None:
        return Sampled(array(0, rows), kept)
    tops = [array(place, rows * most).reshape(rows, most) for place in (4, 5)]
    return Sampled(array(0, rows), kept, array(2, rows), array(3, rows), tops[0], tops[1])


def _nothing(inputs: SamplingInputs) -> Sampled:
    """What came of no rows."""
    tokens = np.zeros(0, np.int64)
    if inputs.num_logprobs is None:
        return Sampled(tokens)
    tops = np.zeros((0, 0), np.int64), np.zeros((0, 0), np.float32)
    return Sampled(tokens, None, np.zeros(0, np.float32), tokens, *tops)

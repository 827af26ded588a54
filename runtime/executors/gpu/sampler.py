"""Logits to tokens on a GPU, by the kernel ``sample`` of an artifact.

before:  logits [R, V] on the device, and each row's parameters on the host
after:   20 bytes a row on the host, and log-probabilities where somebody asks for them

Everything lies where it is for good, so that ``launch`` can be captured with a step: what each row
has, the entries of all rows' lists one after the other, masks, and the results. Only when requests
with longer lists, more masks or more log-probabilities come than ever before, memory is taken anew
and ``moved`` is called. Parameters that the step before had, too, are not written again. The kernel
works in a few vocabularies of memory for each row, so many rows are sampled some at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from graphopt.errors import UsageError
from graphopt.ir.dtype import DType
from graphopt.ir.shape import evaluate
from graphopt.launch import LaunchKernel
from graphopt.loop_kernels import SAMPLE, SAMPLE_OPERANDS, SAMPLE_RESULTS
from graphopt.safetensors_io import numpy_dtype

from ...executor import U64, Masks, Ragged, Sampled, SamplingInputs
from .device import Bytes, Device, rounded

# Most memory that the kernel works in, if that is enough for 16 rows: the 64 rows of a usual decode
# are one launch for a vocabulary of 152k, whose rows take 2.6 MB each.
WORK_BYTES = 256 << 20
# Rows are sampled in multiples of so many, so that every part of an array is aligned.
_ROWS = 16
# Room from the start, so that nothing that is captured has to move: entries of all lists together
# (0.8 MB), most tokens that a row reports, which is what the usual interfaces allow, and masks
# (0.5 MB for 128k tokens). More is taken when somebody asks for it.
LIST_ENTRIES, REPORTED, MASKS = 1 << 16, 20, 32
# Arrays that list entries: where each row's start, the tokens, and their values.
_LISTS = (
    ("bias_starts", "bias_tokens", "bias_values"),
    ("allowed_starts", "allowed_tokens", None),
    ("banned_starts", "banned_tokens", None),
    ("seen_starts", "seen_tokens", "seen_counts"),
)
_ENTRIES = {name for _, *names in _LISTS for name in names if name}
_MASK_WORDS = "mask_words"
_SHARED = {*_ENTRIES, _MASK_WORDS}  # by all rows
_OF_ROWS = tuple(name for name in SAMPLE_OPERANDS if name not in _SHARED)
# Of a row; the others are of K tokens that it reports.
_RESULTS = ("token_ids", "status", "logprobs", "ranks")
_TOPS = ("top_ids", "top_logprobs")
_ENTRY_BYTES = 8 + 4

Array = npt.NDArray[Any]


class DeviceSampler:
    """Samples rows of one width.

    Args:
        device: where.
        kernel: how ``sample`` is launched.
        read: gives its cubins.
        vocab_size: V.
        most_rows: most rows in a step.
        moved: called when something lies elsewhere than before.

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
        moved: Callable[[], None] = lambda: None,
    ) -> None:
        self._device = device
        self._vocab = vocab_size
        self._most_rows = most_rows
        self._moved = moved
        logits = kernel.pointers[0]
        self._row_bytes = vocab_size * (logits.nbytes if logits else 0)
        self._at_once = rows_at_once(kernel, most_rows)
        self._kernels = device.kernels({SAMPLE: kernel}, read)
        self._kernels.reserve({"R": self._at_once, "K": 0})
        _, end = _places(_OF_ROWS, SAMPLE_OPERANDS, most_rows)
        self._staged = np.zeros(end, dtype=np.uint8)
        self._rows = device.allocate(end, "parameters of sampling")
        self.results = device.allocate(_places(_RESULTS, SAMPLE_RESULTS, most_rows)[1], "tokens")
        self._entries, self._lists = LIST_ENTRIES, 0
        self._reported, self._tops = min(REPORTED, vocab_size), 0
        self._masks, self._mask_words = MASKS, 0
        self._take_lists()
        self._take_tops()
        self._take_masks()
        self._layouts: dict[int, Mapping[str, int]] = {}
        self._there: _There | None = None

    def start(self, logits: int, inputs: SamplingInputs) -> Callable[[], Sampled]:
        """Choose or score one token per row; calling the answer waits for them.

        Args:
            logits: address of [R, V].
            inputs: parameters of the R rows.

        Raises:
            UsageError: a target is no token.
            MachineError: there is not enough memory; or, by the answer, the device failed.
        """
        if not inputs.num_rows:
            return lambda: _nothing(inputs)
        self.reserve(inputs)
        self.put(inputs, inputs.num_rows)
        self.launch(logits, inputs.num_rows)
        return self.fetch(inputs, inputs.num_rows)

    def reserve(self, inputs: SamplingInputs) -> None:
        """Make room for the lists of a step and for what it reports.

        Raises:
            UsageError: a target is no token.
            MachineError: there is not enough memory.
        """
        if inputs.targets is not None and inputs.targets.max(initial=-1) >= self._vocab:
            raise UsageError(
                "a target is no token", got=inputs.targets.max(), expected=f"below {self._vocab}"
            )
        seen = inputs.penalties.seen if inputs.penalties else None
        lists = (inputs.bias, inputs.allowed, inputs.banned, seen)
        entries = sum(len(one.tokens) for one in lists if one is not None)
        if entries > self._entries:
            self._entries = 1 << entries.bit_length()
            self._take_lists()
            self._moved()
        masks = 0 if inputs.masks is None else len(inputs.masks.words)
        if masks > self._masks:
            self._masks = 1 << (masks - 1).bit_length()
            self._take_masks()
            self._moved()
        reported = _most_reported(inputs, self._vocab)
        if reported > self._reported:
            self._reported = min(1 << reported.bit_length(), self._vocab)
            self._take_tops()
            self._moved()

    def put(self, inputs: SamplingInputs, rows: int, *, advancing: bool = False) -> None:
        """Put parameters where ``launch`` finds them, unless they are there.

        Args:
            inputs: of the step.
            rows: R of the launch; those beyond the step's are padding.
            advancing: whether the device adds one to all counters before it samples.

        Raises:
            UsageError: rows have a temperature, and no seeds.
        """
        if self._there is not None and self._there.serves(inputs, rows, advancing):
            self._there.counters = inputs.counters
            return
        self._there = None
        arrays = operands(inputs)
        self._put_lists(arrays)
        if inputs.masks is not None and len(inputs.masks.words):
            self._device.write(self._mask_words, arrays[_MASK_WORDS])
        if advancing:
            arrays["counters"] = arrays["counters"] - 1
        places, end = _places(_OF_ROWS, SAMPLE_OPERANDS, rows)
        for name, place in places.items():
            array = arrays[name]
            count = rows + (1 if name.endswith("_starts") else 0)
            room = self._staged[place : place + count * array.itemsize].view(array.dtype)
            room[: len(array)] = array
            room[len(array) :] = array[-1] if name.endswith("_starts") else _padding_of(name)
        self._device.write(self._rows, self._staged[:end])
        # What is seen is different in each step, and so are masks.
        if inputs.penalties is None and inputs.masks is None:
            self._there = _There(deepcopy(inputs), rows, inputs.counters)

    def forget(self) -> None:
        """Parameters have to be put there anew."""
        self._there = None

    def launch(self, logits: int, rows: int) -> None:
        """Sample so many rows; this can be captured.

        Args:
            logits: address of [R, V].
            rows: R.
        """
        places = self._places_at(rows)
        for start in range(0, rows, self._at_once):
            count = min(self._at_once, rows - start)
            pointers = [logits + start * self._row_bytes]
            for name, dtype in {**SAMPLE_OPERANDS, **SAMPLE_RESULTS}.items():
                each = self._reported if name in _TOPS else int(name not in _SHARED)
                pointers.append(places[name] + start * each * dtype.nbytes)
            self._kernels.launch(SAMPLE, pointers, {"R": count, "K": self._reported})

    def fetch(self, inputs: SamplingInputs, rows: int) -> Callable[[], Sampled]:
        """What came of the last launch, of ``rows`` rows; calling the answer waits for it."""
        places, end = _places(_RESULTS, SAMPLE_RESULTS, rows)
        # The first two arrays are all that most steps need.
        wanted = places["logprobs"] if inputs.num_logprobs is None else end
        fetched = self._device.fetch(self.results, wanted)
        most = _most_reported(inputs, self._vocab)
        top_places, top_end = _places(_TOPS, SAMPLE_RESULTS, rows * self._reported)
        tops = self._device.fetch(self._tops, top_end) if most else None
        width = self._reported

        def sampled() -> Sampled:
            found = _Arrays(fetched(), places, inputs.num_rows)
            status = found["status"]
            kept = status if status.any() else None
            if inputs.num_logprobs is None:
                return Sampled(found["token_ids"], kept)
            reported = _Arrays(
                np.zeros(top_end, np.uint8) if tops is None else tops(),
                top_places,
                inputs.num_rows * width,
            )
            ids, logprobs = (reported[name].reshape(-1, width)[:, :most] for name in _TOPS)
            return Sampled(
                found["token_ids"], kept, found["logprobs"], found["ranks"], ids, logprobs
            )

        return sampled

    def counters(self, rows: int) -> int:
        """Where the counters of so many rows' random numbers lie, i64[R]."""
        return self._places_at(rows)["counters"]

    def addresses(self) -> Mapping[str, int]:
        """Where everything is that ``launch`` uses, by what it is."""
        return {
            "parameters of sampling": self._rows,
            "lists of sampling": self._lists,
            "masks of sampling": self._mask_words,
            "sampled tokens": self.results,
            "reported tokens": self._tops,
            **self.workspaces(),
        }

    def workspaces(self) -> Mapping[str, int]:
        """What the kernel keeps, by a name for it."""
        return self._kernels.workspaces()

    def close(self) -> None:
        """Give the memory back."""
        self._kernels.close()
        for address in (
            self._rows,
            self.results,
            self._lists,
            self._mask_words,
            self._tops,
        ):
            self._device.free(address)

    def _put_lists(self, arrays: dict[str, Array]) -> None:
        """Put the entries of all lists one after the other, and make their starts fit."""
        tokens, values, count, has_values = [], [], 0, False
        for starts, names, valued in _LISTS:
            number = int(arrays[starts][-1])
            if number:
                tokens.append(arrays[names][:number])
                none = np.zeros(number, np.float32)
                values.append(arrays[valued][:number] if valued else none)
                arrays[starts] = arrays[starts] + count
                has_values = has_values or valued is not None
                count += number
        if count:
            self._device.write(self._lists, np.concatenate(tokens))
        if has_values:
            self._device.write(self._values, np.concatenate(values))

    @property
    def _values(self) -> int:
        """Where the values of lists lie, after their tokens."""
        return self._lists + self._entries * 8

    def _take_lists(self) -> None:
        nbytes = self._entries * _ENTRY_BYTES
        self._lists = self._anew(self._lists, nbytes, "lists of sampling")

    def _take_tops(self) -> None:
        _, end = _places(_TOPS, SAMPLE_RESULTS, self._most_rows * self._reported)
        self._tops = self._anew(self._tops, end, "reported tokens")

    def _take_masks(self) -> None:
        nbytes = self._masks * _mask_bytes(self._vocab)
        self._mask_words = self._anew(self._mask_words, nbytes, "masks of sampling")

    def _anew(self, address: int, nbytes: int, what: str) -> int:
        """Memory in place of what was there."""
        self._layouts, self._there = {}, None
        if address:
            self._device.free(address)
        return self._device.allocate(nbytes, what)

    def _places_at(self, rows: int) -> Mapping[str, int]:
        """The address of each array of a launch of so many rows."""
        found = self._layouts.get(rows)
        if found is None:
            tops = rows * self._reported
            found = self._layouts[rows] = {
                **_moved(_places(_OF_ROWS, SAMPLE_OPERANDS, rows)[0], self._rows),
                _MASK_WORDS: self._mask_words,
                **{names: self._lists for _, names, _ in _LISTS},
                **{valued: self._values for _, _, valued in _LISTS if valued},
                **_moved(_places(_RESULTS, SAMPLE_RESULTS, rows)[0], self.results),
                **_moved(_places(_TOPS, SAMPLE_RESULTS, tops)[0], self._tops),
            }
        return found


@dataclass(slots=True)
class _There:
    """The parameters that are on the device.

    Attributes:
        inputs: as they were put there.
        rows: R that they were put there for.
        counters: what the device has made of these.
    """

    inputs: SamplingInputs
    rows: int
    counters: U64 | None

    def serves(self, inputs: SamplingInputs, rows: int, advancing: bool) -> bool:
        """Whether a step finds what it needs; arguments as for ``put``."""
        if rows != self.rows or inputs.num_rows != self.inputs.num_rows:
            return False
        if (inputs.counters is None) != (self.counters is None):
            return False
        if inputs.counters is not None and self.counters is not None:
            here = self.counters + np.uint64(advancing)
            if not np.array_equal(here, inputs.counters):
                return False
        names = (field.name for field in fields(inputs) if field.name != "counters")
        return all(_is_same(getattr(self.inputs, name), getattr(inputs, name)) for name in names)


def _is_same(one: object, other: object) -> bool:
    """Whether two parameters are the same; lists of penalties never count as that."""
    if isinstance(one, Ragged) and isinstance(other, Ragged):
        return all(
            _is_same(getattr(one, x), getattr(other, x)) for x in ("starts", "tokens", "values")
        )
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return np.array_equal(one, other)
    return one is other or (isinstance(one, int) and one == other)


class _Arrays:
    """Results in bytes of the device, of some numbers each."""

    def __init__(self, found: Bytes, places: Mapping[str, int], count: int) -> None:
        self._found, self._at, self._count = found, places, count

    def __getitem__(self, name: str) -> Array:
        dtype = np.dtype(numpy_dtype(SAMPLE_RESULTS[name]))
        start = self._at[name]
        return self._found[start : start + self._count * dtype.itemsize].view(dtype)


def sampling_bytes(most_rows: int, vocab_size: int) -> int:
    """What parameters and results of so many rows take, besides the kernel's workspace."""
    places = (
        (_OF_ROWS, SAMPLE_OPERANDS, most_rows),
        (_RESULTS, SAMPLE_RESULTS, most_rows),
        (_TOPS, SAMPLE_RESULTS, most_rows * min(REPORTED, vocab_size)),
    )
    shared = LIST_ENTRIES * _ENTRY_BYTES + MASKS * _mask_bytes(vocab_size)
    return shared + sum(_places(*one)[1] for one in places)


def _mask_bytes(vocab_size: int) -> int:
    """Bytes of one mask."""
    return 4 * -(-vocab_size // 32)


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
        *_mask_arrays(inputs.masks, rows),
    )
    return dict(zip(SAMPLE_OPERANDS, values, strict=True))


def _mask_arrays(masks: Masks | None, rows: int) -> tuple[Array, Array]:
    """Which mask each row has, and all masks; there is an address without any, too."""
    if masks is None or not len(masks.words):
        return np.full(rows, -1, np.int64), np.zeros(1, np.int32)
    return masks.rows, masks.words.view(np.int32)


def _lists(ragged: Ragged | None, rows: int) -> tuple[Array, Array, Array]:
    """Where each row's entries start, their tokens and their values."""
    if ragged is None:
        return np.zeros(rows + 1, np.int64), np.zeros(1, np.int64), np.zeros(1, np.float32)
    # Of no entries there is no memory.
    values = np.append(ragged.values, np.float32(0))
    return ragged.starts, np.append(ragged.tokens, 0), values


def _places(
    names: tuple[str, ...], dtypes: Mapping[str, DType], count: int
) -> tuple[dict[str, int], int]:
    """Where arrays of ``count`` numbers lie, one after the other, and where they end."""
    found, end = {}, 0
    for name in names:
        found[name] = end
        # Starts have one number more than there are rows, and of nothing there is an address, too.
        end += rounded((count + 1) * dtypes[name].nbytes)
    return found, end


def _moved(places: Mapping[str, int], base: int) -> dict[str, int]:
    return {name: base + place for name, place in places.items()}


def _padding_of(name: str) -> int:
    """What rows of padding have: their token is given, and nothing is reported of them."""
    return -1 if name in ("num_logprobs", "mask_rows") else 0


def _most_reported(inputs: SamplingInputs, vocab_size: int) -> int:
    """K: how many of the likeliest tokens some row wants."""
    if inputs.num_logprobs is None:
        return 0
    return max(0, min(int(inputs.num_logprobs.max(initial=0)), vocab_size))


def _nothing(inputs: SamplingInputs) -> Sampled:
    """What came of no rows."""
    tokens = np.zeros(0, np.int64)
    if inputs.num_logprobs is None:
        return Sampled(tokens)
    tops = np.zeros((0, 0), np.int64), np.zeros((0, 0), np.float32)
    return Sampled(tokens, None, np.zeros(0, np.float32), tokens, *tops)

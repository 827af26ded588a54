"""The sampler that an artifact's shared object holds: sampler.py's definition, in C++.

before:  logits [R, V] in memory, and how to sample each row
after:   a token per row, as ``runtime.sampler.sample`` chooses it

``codegen/templates/cpp/sample.h`` says within which limits the two agree, and what each thread
does. The structures here mirror those there, field by field.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import numpy.typing as npt

from graphopt.errors import ArtifactError, MachineError, UsageError

from ..executor import Masks, Ragged, Sampled, SamplingInputs

Array = npt.NDArray[Any]
# How logits of each type are held in numpy, which knows no bf16.
HOLDS: dict[str, np.dtype[Any]] = {
    "f32": np.dtype(np.float32),
    "bf16": np.dtype(np.uint16),
    "f16": np.dtype(np.float16),
}
_I64, _F32, _U64 = np.dtype(np.int64), np.dtype(np.float32), np.dtype(np.uint64)
_U32 = np.dtype(np.uint32)
_ALIGNMENT = 64


class Lists(ctypes.Structure):
    """The C++ side's ``Lists``."""

    _fields_ = [(name, ctypes.c_void_p) for name in ("starts", "tokens", "values")]


class MaskArgs(ctypes.Structure):
    """The C++ side's ``Masks``."""

    _fields_ = [(name, ctypes.c_void_p) for name in ("rows", "words")]


class SampleArgs(ctypes.Structure):
    """The C++ side's ``SampleArgs``."""

    _fields_ = [
        ("logits", ctypes.c_void_p),
        ("rows", ctypes.c_int64),
        ("vocab", ctypes.c_int64),
        ("threads", ctypes.c_int64),
        ("targets", ctypes.c_void_p),
        ("temperature", ctypes.c_void_p),
        ("top_k", ctypes.c_void_p),
        ("top_p", ctypes.c_void_p),
        ("min_p", ctypes.c_void_p),
        ("bias", Lists),
        ("allowed", Lists),
        ("banned", Lists),
        ("seen", Lists),
        ("masks", MaskArgs),
        ("repetition", ctypes.c_void_p),
        ("presence", ctypes.c_void_p),
        ("frequency", ctypes.c_void_p),
        ("seeds", ctypes.c_void_p),
        ("streams", ctypes.c_void_p),
        ("counters", ctypes.c_void_p),
        ("num_logprobs", ctypes.c_void_p),
        ("most", ctypes.c_int64),
        ("token_ids", ctypes.c_void_p),
        ("status", ctypes.c_void_p),
        ("logprobs", ctypes.c_void_p),
        ("ranks", ctypes.c_void_p),
        ("top_ids", ctypes.c_void_p),
        ("top_logprobs", ctypes.c_void_p),
        ("workspace", ctypes.c_void_p),
        ("workspace_bytes", ctypes.c_int64),
    ]


_PER_ROW: dict[str, np.dtype[Any]] = {
    "targets": _I64,
    "temperature": _F32,
    "top_k": _I64,
    "top_p": _F32,
    "min_p": _F32,
    "seeds": _U64,
    "streams": _U64,
    "counters": _U64,
    "num_logprobs": _I64,
}


class NativeSampler:
    """Samples rows of logits through a shared object.

    Args:
        library: exports ``gopt_sample_<dtype>`` and ``gopt_sample_<dtype>_bytes``.
        dtype: of the logits, ``f32``, ``bf16`` or ``f16``.
        vocab_size: V.
        max_rows: most rows of a call.
        threads: how many threads every parallel region of this process has.

    Raises:
        ArtifactError: there is no sampler for logits of this type, or the library exports none.
        MachineError: there is no memory to work in.
    """

    def __init__(
        self, library: ctypes.CDLL, dtype: str, vocab_size: int, max_rows: int, threads: int
    ) -> None:
        if dtype not in HOLDS:
            raise ArtifactError(
                f"no kernel samples {dtype} logits",
                expected=", ".join(HOLDS),
                next="compile the model in one of these types",
            )
        self._dtype, self._vocab, self._max_rows = HOLDS[dtype], vocab_size, max_rows
        try:
            self._call = getattr(library, f"gopt_sample_{dtype}")
            size = getattr(library, f"gopt_sample_{dtype}_bytes")
        except AttributeError as error:
            raise ArtifactError(
                f"the kernels hold no sampler for {dtype} logits", next="compile the model again"
            ) from error
        self._call.argtypes, self._call.restype = (ctypes.POINTER(SampleArgs),), ctypes.c_int32
        size.argtypes, size.restype = (ctypes.c_int64,) * 3, ctypes.c_int64
        self._args = SampleArgs(vocab=vocab_size, threads=threads)
        self._args.workspace_bytes = size(max_rows, vocab_size, threads)
        try:
            self._workspace = np.empty(self._args.workspace_bytes + _ALIGNMENT, dtype=np.uint8)
        except MemoryError as error:
            raise MachineError(
                "no memory to sample in", expected=f"{self._args.workspace_bytes} bytes"
            ) from error
        address = self._workspace.ctypes.data
        self._args.workspace = address + -address % _ALIGNMENT

    def sample(self, logits: int | Array, inputs: SamplingInputs) -> Sampled:
        """Choose or score one token per row.

        Args:
            logits: [R, V] or its address; bf16 is held as uint16. Not changed.
            inputs: parameters of the R rows, R at most ``max_rows``; within a list no token occurs
                twice, and all are in 0..V.

        Raises:
            UsageError: an array has another type or shape than it should, or is missing.
        """
        rows = inputs.num_rows
        if rows > self._max_rows:
            raise UsageError("too many rows to sample", got=rows, expected=self._max_rows)
        # The array keeps its name, as nobody else may hold it until the call returns.
        address = (
            _address("logits", logits, self._dtype, (rows, self._vocab))
            if isinstance(logits, np.ndarray)
            else logits
        )
        args = SampleArgs.from_buffer_copy(self._args)
        args.logits, args.rows = address, rows
        self._fill(args, inputs)
        if inputs.targets is not None and inputs.targets.max(initial=-1) >= self._vocab:
            raise UsageError(
                "a target is no token", got=inputs.targets.max(), expected=f"below {self._vocab}"
            )
        tokens, status = np.empty(rows, dtype=np.int64), np.empty(rows, dtype=np.uint8)
        args.token_ids, args.status = tokens.ctypes.data, status.ctypes.data
        reported: tuple[Array, ...] = ()
        if inputs.num_logprobs is not None:
            most = max(0, min(int(inputs.num_logprobs.max(initial=0)), self._vocab))
            reported = (
                np.empty(rows, dtype=np.float32),
                np.empty(rows, dtype=np.int64),
                np.empty((rows, most), dtype=np.int64),
                np.empty((rows, most), dtype=np.float32),
            )
            args.most = most
            args.logprobs, args.ranks, args.top_ids, args.top_logprobs = (
                one.ctypes.data for one in reported
            )
        unsound = self._call(args)
        if unsound < 0:
            raise MachineError("the sampler's memory is too small", got=args.workspace_bytes)
        return Sampled(tokens, status if unsound else None, *reported)

    def _fill(self, args: SampleArgs, inputs: SamplingInputs) -> None:
        """Write the addresses of ``inputs``' arrays into ``args``."""
        rows = (inputs.num_rows,)
        for name, dtype in _PER_ROW.items():
            array = getattr(inputs, name)
            if array is not None:
                setattr(args, name, _address(name, array, dtype, rows))
        if inputs.temperature is not None:
            inputs.randomness()
        for name in ("bias", "allowed", "banned"):
            ragged = getattr(inputs, name)
            if ragged is not None:
                setattr(args, name, _lists(name, ragged, inputs.num_rows))
        if inputs.masks is not None:
            args.masks = _masks(inputs.masks, inputs.num_rows, self._vocab)
        if inputs.penalties is not None:
            args.seen = _lists("seen", inputs.penalties.seen, inputs.num_rows)
            for name in ("repetition", "presence", "frequency"):
                setattr(args, name, _address(name, getattr(inputs.penalties, name), _F32, rows))


def _lists(name: str, ragged: Ragged, rows: int) -> Lists:
    """``ragged`` as C++ reads it."""
    entries = ragged.tokens.shape
    starts = _address(f"{name}.starts", ragged.starts, _I64, (rows + 1,))
    if ragged.starts[-1] > len(ragged.tokens):
        raise UsageError(
            f"{name} has fewer entries than it says", got=entries, expected=ragged.starts[-1]
        )
    return Lists(
        starts,
        _address(f"{name}.tokens", ragged.tokens, _I64, entries),
        _address(f"{name}.values", ragged.values, _F32, entries),
    )


def _masks(masks: Masks, rows: int, vocab: int) -> MaskArgs:
    """``masks`` as C++ reads them."""
    count = len(masks.words)
    address = _address("masks.rows", masks.rows, _I64, (rows,))
    if masks.rows.max(initial=-1) >= count:
        raise UsageError(
            "there are fewer masks than rows say", got=count, expected=1 + masks.rows.max()
        )
    shape = (count, (vocab + 31) // 32)
    return MaskArgs(address, _address("masks.words", masks.words, _U32, shape))


def _address(name: str, array: Array, dtype: np.dtype[Any], shape: tuple[int, ...]) -> int:
    """Where ``array`` lies, if it is what C++ takes it for."""
    if array.dtype != dtype or array.shape != shape or not array.flags.c_contiguous:
        raise UsageError(
            f"{name} is not an array that the sampler reads",
            got=f"{array.dtype}{list(array.shape)}",
            expected=f"{dtype}{list(shape)}, contiguous",
        )
    return array.ctypes.data

"""The header of a safetensors file: parsed and checked against the file's size, no tensor read.

The format (huggingface/safetensors, "Format"): the header's length N in 8 little-endian bytes; N
bytes of JSON, ``{"name": {"dtype": "F16", "shape": [2, 3], "data_offsets": [begin, end]}, ...}``,
with an optional ``__metadata__`` of strings; then the data, without holes. Every rule of it is
checked here, so that damage is reported with a file and a tensor, and never surfaces as numbers.
"""

from __future__ import annotations

import math
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from graphopt.errors import CheckpointError, UnsupportedError

from .json_file import parse_object

if TYPE_CHECKING:
    import torch

# The limit of the reference implementation, against files that claim a header of gigabytes.
MAX_HEADER_BYTES = 100_000_000
_LENGTH_BYTES = 8
_LARGEST_SIZE = 2**63 - 1
_DAMAGED = "copy or download the file again: it is damaged or incomplete"

# Bits of an element, and PyTorch's name where it has one.
_TYPES: Mapping[str, tuple[int, str | None]] = {
    "BOOL": (8, "bool"),
    "U8": (8, "uint8"),
    "I8": (8, "int8"),
    "F8_E5M2": (8, "float8_e5m2"),
    "F8_E4M3": (8, "float8_e4m3fn"),
    "F8_E5M2FNUZ": (8, "float8_e5m2fnuz"),
    "F8_E4M3FNUZ": (8, "float8_e4m3fnuz"),
    "F8_E8M0": (8, "float8_e8m0fnu"),
    "F4": (4, None),
    "F6_E2M3": (6, None),
    "F6_E3M2": (6, None),
    "I16": (16, "int16"),
    "U16": (16, "uint16"),
    "F16": (16, "float16"),
    "BF16": (16, "bfloat16"),
    "I32": (32, "int32"),
    "U32": (32, "uint32"),
    "F32": (32, "float32"),
    "I64": (64, "int64"),
    "U64": (64, "uint64"),
    "F64": (64, "float64"),
    "C64": (64, "complex64"),
}


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor of a checkpoint, known from its header alone.

    Args:
        name: its name in the checkpoint.
        dtype: the element type as safetensors spells it, such as ``BF16``.
        shape: its sizes.
        file: the file that holds it.
        nbytes: bytes of its data.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    nbytes: int

    @property
    def is_float(self) -> bool:
        """Whether the elements are real floating-point numbers."""
        return self.dtype.startswith(("F", "BF"))

    @property
    def torch_dtype(self) -> torch.dtype:
        """PyTorch's element type.

        Raises:
            UnsupportedError: PyTorch has no such type (4 and 6 bit floats).
        """
        import torch

        name = _TYPES[self.dtype][1]
        if name is None:
            raise UnsupportedError(
                f"tensor {self.name!r} has an element type that PyTorch lacks",
                where=str(self.file),
                got=self.dtype,
            )
        dtype = getattr(torch, name)
        if not isinstance(dtype, torch.dtype):
            raise UnsupportedError(f"PyTorch lacks the type {name}", where=str(self.file))
        return dtype

    def __str__(self) -> str:
        return f"{self.dtype}[{', '.join(map(str, self.shape))}]"


def read_header(path: Path) -> tuple[TensorInfo, ...]:
    """Every tensor of one safetensors file, in the order of their data.

    Raises:
        CheckpointError: the file is missing, truncated, not safetensors, or contradicts itself.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise CheckpointError(f"{path.name} is not a regular file", where=str(path))
        with path.open("rb") as file:
            text = _header_text(file, path, status.st_size)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path.name} does not exist", where=str(path)) from error
    except OSError as error:
        raise CheckpointError(
            f"cannot read {path.name}", where=str(path), got=error.strerror or error
        ) from error
    header = parse_object(text, str(path), f"the header of {path.name}", unique_keys=True)
    _check_metadata(header.pop("__metadata__", None), path)
    return _tensors(header, path, status.st_size - _LENGTH_BYTES - len(text))


def _header_text(file: BinaryIO, path: Path, size: int) -> bytes:
    """The header's JSON text; ``size`` is the file's in bytes."""
    start = file.read(_LENGTH_BYTES)
    if start == b"version ":
        raise CheckpointError(
            f"{path.name} is a Git LFS pointer, not the weights",
            where=str(path),
            got=f"a text file of {size} bytes",
            next="run `git lfs pull` in the checkpoint's folder",
        )
    if start.startswith(b"PK\x03\x04"):
        raise CheckpointError(
            f"{path.name} is not a safetensors file",
            where=str(path),
            got="a zip archive, as torch.save writes it",
            next="convert it with safetensors.torch.save_file: renaming a pickle is not enough",
        )
    if len(start) < _LENGTH_BYTES:
        raise CheckpointError(
            f"{path.name} is truncated",
            where=str(path),
            got=f"{size} bytes",
            expected="at least 8",
            next=_DAMAGED,
        )
    length = int.from_bytes(start, "little")
    if length > MAX_HEADER_BYTES:
        raise CheckpointError(
            f"{path.name} is not a safetensors file",
            where=str(path),
            got=f"a header length of {length}",
            expected=f"at most {MAX_HEADER_BYTES}",
            next=_DAMAGED,
        )
    text = file.read(length)
    if len(text) < length:
        raise CheckpointError(
            f"{path.name} is truncated inside its header",
            where=str(path),
            got=f"{size} bytes",
            expected=f"at least {_LENGTH_BYTES + length}",
            next=_DAMAGED,
        )
    if not text.startswith(b"{"):
        raise CheckpointError(
            f"{path.name} is not a safetensors file",
            where=str(path),
            got=f"a header that starts with {text[:8]!r}",
            expected="'{'",
            next=_DAMAGED,
        )
    return text


def _check_metadata(metadata: object, path: Path) -> None:
    """The optional ``__metadata__`` must map strings to strings."""
    if metadata is None:
        return
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise CheckpointError(
            f"the header of {path.name} has metadata that is not text",
            where=str(path),
            next=_DAMAGED,
        )


def _tensors(header: dict[str, Any], path: Path, data_bytes: int) -> tuple[TensorInfo, ...]:
    """Checks that the tensors tile the data exactly; returns them in its order."""
    placed = [(_span(name, entry, path), name, entry) for name, entry in header.items()]
    placed.sort(key=lambda item: item[0])
    position = 0
    found = []
    for (begin, end), name, entry in placed:
        if begin != position:
            problem = "overlaps the tensor before it" if begin < position else "leaves a hole"
            raise CheckpointError(
                f"tensor {name!r} of {path.name} {problem}",
                where=str(path),
                got=f"data at {begin}",
                expected=f"at {position}",
                next=_DAMAGED,
            )
        position = end
        found.append(_tensor(name, entry, path, end - begin))
    if position != data_bytes:
        raise CheckpointError(
            f"{path.name} is truncated"
            if position > data_bytes
            else f"{path.name} has data of no tensor",
            where=str(path),
            got=f"{data_bytes} bytes of data",
            expected=position,
            next=_DAMAGED,
        )
    return tuple(found)


def _span(name: str, entry: object, path: Path) -> tuple[int, int]:
    """Where the tensor's data begins and ends, in bytes after the header."""
    offsets = entry.get("data_offsets") if isinstance(entry, dict) else None
    if (
        not isinstance(offsets, list)
        or len(offsets) != 2
        or not all(_is_size(value) for value in offsets)
        or offsets[0] > offsets[1]
    ):
        raise _bad_entry(name, entry, path, "data_offsets [begin, end]")
    return offsets[0], offsets[1]


def _tensor(name: str, entry: dict[str, Any], path: Path, nbytes: int) -> TensorInfo:
    """The tensor of one header entry, whose data has ``nbytes`` bytes."""
    code, shape = entry.get("dtype"), entry.get("shape")
    if not isinstance(code, str) or code not in _TYPES:
        raise _bad_entry(name, entry, path, "dtype, one of " + ", ".join(_TYPES))
    if not isinstance(shape, list) or not all(_is_size(size) for size in shape):
        raise _bad_entry(name, entry, path, "shape, a list of sizes")
    bits = math.prod(shape) * _TYPES[code][0]
    if bits != nbytes * 8:
        raise CheckpointError(
            f"tensor {name!r} of {path.name} does not fill its data",
            where=str(path),
            got=f"{nbytes} bytes",
            expected=f"{-(-bits // 8)} for {code}{shape}",
            next=_DAMAGED,
        )
    return TensorInfo(name, code, tuple(shape), path, nbytes)


def _is_size(value: object) -> bool:
    """Whether ``value`` is a whole number that can be a size; JSON's true and false are not."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _LARGEST_SIZE


def _bad_entry(name: str, entry: object, path: Path, expected: str) -> CheckpointError:
    return CheckpointError(
        f"the header of {path.name} describes tensor {name!r} wrongly",
        where=str(path),
        got=str(entry)[:200],
        expected=expected,
        next=_DAMAGED,
    )

"""Safetensors files written in a stream and read through a memory map, without PyTorch.

Written files are ordinary safetensors whose header is padded to a page and whose tensors start at
multiples of 64 bytes, so that they can be mapped and handed to vector code as they are. Gaps are
filled by tensors named ``__pad.N``, because the format allows no holes.
"""

from __future__ import annotations

import json
import mmap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt

from graphopt.errors import ArtifactError
from graphopt.ir.dtype import DType
from graphopt.packing import Layout
from graphopt.quantization import unpack_quantized
from graphopt.weight_layout import WeightLayout, stored_as, unpacked

ALIGNMENT = 64
HEADER_ALIGNMENT = 4096
PADDING_PREFIX = "__pad."
# What numpy has no type for is viewed as integers of the same size.
_NUMPY: dict[DType, str] = {
    DType.F64: "<f8",
    DType.F32: "<f4",
    DType.F16: "<f2",
    DType.BF16: "<u2",
    DType.F8E4M3: "u1",
    DType.F8E5M2: "u1",
    DType.I64: "<i8",
    DType.I32: "<i4",
    DType.I16: "<i2",
    DType.I8: "i1",
    DType.U8: "u1",
    DType.BOOL: "?",
}


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """One tensor in a file: its type and where in the file it lies, from ``start`` to ``stop``."""

    name: str
    dtype: DType
    shape: tuple[int, ...]
    start: int
    stop: int


def file_layout(
    tensors: Sequence[tuple[str, DType, tuple[int, ...]]],
) -> tuple[bytes, list[TensorEntry]]:
    """The header of a file that holds ``tensors`` in this order, and where each one starts."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset, offsets = 0, []
    for name, dtype, shape in tensors:
        if gap := -offset % ALIGNMENT:
            header[f"{PADDING_PREFIX}{offset}"] = {
                "dtype": "U8",
                "shape": [gap],
                "data_offsets": [offset, offset + gap],
            }
            offset += gap
        size = int(np.prod(shape, dtype=np.int64)) * dtype.nbytes
        header[name] = {
            "dtype": dtype.safetensors,
            "shape": list(shape),
            "data_offsets": [offset, offset + size],
        }
        offsets.append((offset, offset + size))
        offset += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(len(text) + 8) % HEADER_ALIGNMENT)
    base = 8 + len(text)
    entries = [
        TensorEntry(name, dtype, shape, base + start, base + stop)
        for (name, dtype, shape), (start, stop) in zip(tensors, offsets, strict=True)
    ]
    return len(text).to_bytes(8, "little") + text, entries


def write_stream(
    file: IO[bytes],
    tensors: Sequence[tuple[str, DType, tuple[int, ...]]],
    contents: Iterable[npt.NDArray[np.generic]],
) -> None:
    """Write ``tensors`` to ``file``, taking their bytes one after the other from ``contents``.

    Raises:
        ArtifactError: a content's size is not what its type says.
    """
    header, entries = file_layout(tensors)
    file.write(header)
    position = len(header)
    for entry, content in zip(entries, contents, strict=True):
        if content.nbytes != entry.stop - entry.start:
            raise ArtifactError(
                f"weight {entry.name} has the wrong size",
                got=f"{content.nbytes} bytes",
                expected=f"{entry.stop - entry.start} bytes",
            )
        file.write(b"\0" * (entry.start - position))
        file.write(np.ascontiguousarray(content).reshape(-1).view(np.uint8).data)
        position = entry.stop


def read_header(path: Path) -> Iterator[TensorEntry]:
    """The tensors in a file, without their padding.

    Raises:
        ArtifactError: the file is not safetensors, or shorter than it says.
    """
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length)) if length <= size else None
        if not isinstance(header, dict):
            raise ArtifactError("weights file has no header", where=path.name)
        header.pop("__metadata__", None)
        for name, row in header.items():
            start, stop = row["data_offsets"]
            entry = TensorEntry(
                name,
                DType.from_safetensors(row["dtype"]),
                tuple(row["shape"]),
                8 + length + start,
                8 + length + stop,
            )
            if not 0 <= start <= stop or entry.stop > size:
                raise ArtifactError(f"weight {name} lies outside its file", where=path.name)
            if not name.startswith(PADDING_PREFIX):
                yield entry
    except (ValueError, KeyError, TypeError) as error:
        raise ArtifactError(
            "weights file has a damaged header", where=path.name, got=repr(error)
        ) from error


def numpy_dtype(dtype: DType) -> npt.DTypeLike:
    """What numpy calls ``dtype``; an integer of the same size where it has no name for it."""
    return _NUMPY[dtype]


def private_map(file: IO[bytes]) -> mmap.mmap:
    """The pages of ``file``; what is written to them stays in this process."""
    return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)


class MappedFile:
    """A safetensors file in memory, page by page as it is read.

    Args:
        path: the file.
        mapped: its ``private_map``, if there is one already.
    """

    def __init__(self, path: Path, mapped: mmap.mmap | None = None) -> None:
        self.entries = {entry.name: entry for entry in read_header(path)}
        if mapped is None:
            with path.open("rb") as file:
                mapped = private_map(file)
        self._map = mapped

    def view(self, name: str) -> npt.NDArray[np.generic]:
        """The tensor as an array; bf16 and f8 come as unsigned integers of the same size."""
        entry = self.entries[name]
        count = int(np.prod(entry.shape, dtype=np.int64))
        array = np.frombuffer(self._map, _NUMPY[entry.dtype], count, entry.start)
        return array.reshape(entry.shape)


class Weights:
    """The tensors of an artifact, by name, as views of mapped files.

    Args:
        files: hold them.
        layouts: how packed ones are stored; the others lie row after row.
    """

    def __init__(
        self, files: Sequence[MappedFile], layouts: Mapping[str, WeightLayout] | None = None
    ) -> None:
        self._file_of = {name: file for file in files for name in file.entries}
        self.layouts = dict(layouts or {})
        # The weights in whose panels scales are stored, by the names of the scales.
        self._panels_of = {
            one.scales: (name, one)
            for name, one in self.layouts.items()
            if isinstance(one, Layout) and one.scales
        }

    def names(self) -> Iterable[str]:
        """Names of all tensors, scales that are stored with their integers among them."""
        return self._file_of.keys() | self._panels_of.keys()

    def dtype(self, name: str) -> DType:
        """Element type of the tensor called ``name``."""
        if name in self._panels_of:
            return DType.F16
        layout = self.layouts.get(name)
        if isinstance(layout, Layout) and layout.quant is not None:
            return DType.I8
        return self._file(name).entries[name].dtype

    def view(self, name: str) -> npt.NDArray[np.generic]:
        """The tensor as an array; bf16 and f8 come as unsigned integers of the same size.

        A packed one is unpacked, into memory of its own.
        """
        if name in self._panels_of:
            other, panels = self._panels_of[name]
            return unpack_quantized(self.stored(other), panels)[1]
        stored, layout = self.stored(name), self.layouts.get(name)
        return stored if layout is None else unpacked(stored, layout)

    def stored(self, name: str) -> npt.NDArray[np.generic]:
        """What the file holds of the tensor, packed or not; panels have their scales in them.

        Raises:
            ArtifactError: it does not have the type and shape that its layout gives it.
        """
        if name in self._panels_of:
            name, _ = self._panels_of[name]
        file = self._file(name)
        if (layout := self.layouts.get(name)) is not None:
            entry = file.entries[name]
            dtype, shape = stored_as(layout, self.dtype(name))
            if (entry.dtype, entry.shape) != (dtype, shape):
                raise ArtifactError(
                    f"weight {name} is not packed as the plan says",
                    got=f"{entry.dtype}{list(entry.shape)}",
                    expected=f"{dtype}{list(shape)}",
                )
        return file.view(name)

    def _file(self, name: str) -> MappedFile:
        if name not in self._file_of:
            raise ArtifactError(f"weight {name} is not in the artifact")
        return self._file_of[name]

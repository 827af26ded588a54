"""Writes an ONNX model and its weights, one weight in memory at a time.

before:  a model whose weights are declared, and a function that gives the bytes of each
after:   ``model.onnx`` with small weights inside, or with ``model.onnx.data`` beside it, in which
         every weight starts on a page so that it can be mapped
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt
import onnx

from graphopt.errors import CompileError, MachineError
from graphopt.progress import ProgressFn, silent, weighed

from .onnx_export import OnnxModel, declared

# Weights up to this size are in the model's own file, which protobuf limits to 2 GiB and copies
# several times over while it is written and read.
MAX_INSIDE_BYTES = 64 << 20
_PAGE = 4096
DATA_SUFFIX = ".data"

Load = Callable[[str], npt.NDArray[np.generic]]


def save(
    model: OnnxModel,
    path: Path,
    load: Load,
    *,
    max_inside_bytes: int = MAX_INSIDE_BYTES,
    progress: ProgressFn = silent,
) -> tuple[Path, ...]:
    """Writes the model, and gives the files it is in.

    Args:
        model: what to write.
        path: the file; its weights go beside it if they are too large for it.
        load: gives the elements of the graph's weight called so, in the type the graph declares.
        max_inside_bytes: most bytes of weights within the file itself.
        progress: told how far the work is.

    Raises:
        MachineError: a file cannot be written.
        CompileError: a weight's size is not what its type says.
    """
    tensors = [declared(name, value) for name, value in model.weights.items()]
    sizes = [_nbytes(tensor) for tensor in tensors]
    pairs = zip(zip(tensors, model.weights.values(), strict=True), sizes, strict=True)
    weights = weighed(pairs, "writing the weights", sum(sizes), progress)
    data = path.with_name(path.name + DATA_SUFFIX)
    inside = sum(sizes) <= max_inside_bytes
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    try:
        with _replacing(path) as stream:
            if inside:
                for tensor, value in weights:
                    tensor.raw_data = _bytes(load(value.name), tensor)
            else:
                with _replacing(data) as outside:
                    for tensor, value in weights:
                        _put_outside(outside, tensor, _bytes(load(value.name), tensor), data.name)
            proto.graph.initializer.extend(tensors)
            stream.write(proto.SerializeToString(deterministic=True))
    except OSError as error:
        raise MachineError(
            "the ONNX model cannot be written",
            where=str(path),
            got=error.strerror or error,
            next="write to another place with -o",
        ) from error
    return (path,) if inside else (path, data)


def _put_outside(stream: IO[bytes], tensor: onnx.TensorProto, data: bytes, name: str) -> None:
    stream.write(b"\0" * (-stream.tell() % _PAGE))
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, text in (("location", name), ("offset", stream.tell()), ("length", len(data))):
        tensor.external_data.add(key=key, value=str(text))
    stream.write(data)


def _nbytes(tensor: onnx.TensorProto) -> int:
    width = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    return int(np.prod(tensor.dims, dtype=np.int64)) * width


def _bytes(array: npt.NDArray[np.generic], tensor: onnx.TensorProto) -> bytes:
    if array.nbytes != _nbytes(tensor):
        raise CompileError(
            f"weight {tensor.name} has the wrong size",
            got=f"{array.nbytes} bytes",
            expected=f"{_nbytes(tensor)} bytes",
        )
    return np.ascontiguousarray(array).tobytes()


@contextmanager
def _replacing(path: Path) -> Iterator[IO[bytes]]:
    """A file that takes the place of ``path`` once it is complete; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            yield stream
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    finally:
        Path(temporary).unlink(missing_ok=True)

"""Opens an ONNX model: a protobuf file that nobody vouches for, and weights that may lie beside it.

before:  a path
after:   the graph with its local functions expanded, and the weights, each read when it is wanted

Nothing of the file is believed before it is checked: weights outside must lie in the model's own
folder and be as long as their shapes say, functions must end, and the standard's own checker must
find the graph well formed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Any

import networkx
import numpy as np
import numpy.typing as npt

from graphopt.errors import CheckpointError, MachineError, UnsupportedError
from graphopt.ir.dtype import DType

if TYPE_CHECKING:
    import onnx

OLDEST_OPSET, NEWEST_OPSET = 13, 25
# What the nodes of a model may come to when its functions are expanded; large models have 50,000.
MAX_NODES = 1_000_000
MAX_FILE_BYTES = (1 << 31) - 1
_STANDARD = ("", "ai.onnx")
_STAND_IN = {DType.BF16: "<u2", DType.F8E4M3: "u1", DType.F8E5M2: "u1"}


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A weight of the file.

    Attributes:
        name: its name in the graph.
        dtype: type of its elements.
        shape: its shape.
        file: the file its bytes lie in; None if they are in the model itself.
        offset: where in that file.
        proto: the tensor of the model.
    """

    name: str
    dtype: DType
    shape: tuple[int, ...]
    file: Path | None
    offset: int
    proto: onnx.TensorProto

    @property
    def elements(self) -> int:
        """How many elements it has."""
        return int(np.prod(self.shape, dtype=object))

    def load(self) -> npt.NDArray[np.generic]:
        """Its elements, mapped where they are in a file; bf16 and f8 as integers of their size."""
        stand_in = _STAND_IN.get(self.dtype)
        if self.file is None:
            from onnx import numpy_helper

            array: npt.NDArray[np.generic] = numpy_helper.to_array(self.proto)
            return array if stand_in is None else array.view(stand_in)
        kind = np.dtype(stand_in or _numpy_name(self.dtype)).newbyteorder("<")
        if not self.elements:
            return np.zeros(self.shape, kind)
        return np.memmap(self.file, kind, "r", self.offset, self.shape)


def _numpy_name(dtype: DType) -> str:
    return "bool" if dtype is DType.BOOL else dtype.torch_name


@dataclass(frozen=True)
class OnnxFile:
    """A model that was opened and checked.

    Attributes:
        path: the file.
        model: the model, its local functions expanded, the weights' bytes left out.
        weights: its weights by name.
        opset: version of the standard's operators.
        metadata: what its maker wrote about it.
    """

    path: Path
    model: onnx.ModelProto
    weights: Mapping[str, StoredTensor]
    opset: int
    metadata: Mapping[str, str]


def require_onnx() -> None:
    """Demands that the onnx package is installed.

    Raises:
        MachineError: it is not.
    """
    try:
        import onnx  # noqa: F401
    except ImportError as error:
        raise MachineError(
            "reading and writing ONNX models needs the onnx package",
            got=str(error),
            next="pip install graphopt[onnx]",
        ) from error


def open_onnx(path: Path) -> OnnxFile:
    """Opens the model at ``path``.

    Raises:
        MachineError: the onnx package is not installed.
        CheckpointError: the file is no ONNX model, is damaged, or names files outside its folder.
        UnsupportedError: it uses what graphopt does not know.
    """
    require_onnx()
    model = _parse(path)
    opset = _opset(model, path)
    weights = {tensor.name: _stored(tensor, path) for tensor in model.graph.initializer}
    if len(weights) != len(model.graph.initializer):
        raise _broken(path, "two weights have one name")
    _refuse_elsewhere(model, path)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    bare = _without_weights(model, path)
    _check(bare, path)
    return OnnxFile(path, _inlined(bare, path), weights, opset, metadata)


def _parse(path: Path) -> onnx.ModelProto:
    import onnx
    from google.protobuf.message import DecodeError

    try:
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise _broken(path, f"{size} bytes, more than protobuf allows")
        data = path.read_bytes()
    except OSError as error:
        raise CheckpointError(
            "the ONNX model cannot be read", where=str(path), got=error.strerror or error
        ) from error
    try:
        model: onnx.ModelProto = onnx.ModelProto.FromString(data)
    except DecodeError as error:
        raise _broken(path, f"protobuf: {error}") from error
    if not _is_text(model):
        raise _broken(path, "a name in it is not text")
    if not model.HasField("graph") or not model.graph.output:
        raise _broken(path, "it has no graph with outputs")
    return model


def _is_text(message: Any) -> bool:
    """Whether every string within a message is text, which protobuf does not check."""
    for field, value in message.ListFields():
        if field.type == field.TYPE_MESSAGE:
            parts = [value] if hasattr(value, "ListFields") else value
            if not all(_is_text(part) for part in parts):
                return False
        elif field.type == field.TYPE_STRING:
            words = [value] if isinstance(value, str | bytes) else value
            if not all(isinstance(word, str) for word in words):
                return False
    return True


def _opset(model: onnx.ModelProto, path: Path) -> int:
    versions = [one.version for one in model.opset_import if one.domain in _STANDARD]
    if len(versions) != 1:
        raise _broken(path, f"{len(versions)} versions of the standard's operators")
    if not OLDEST_OPSET <= versions[0] <= NEWEST_OPSET:
        raise UnsupportedError(
            "the model is of another version of the ONNX standard",
            where=str(path),
            got=f"opset {versions[0]}",
            expected=f"opset {OLDEST_OPSET} to {NEWEST_OPSET}",
            next="export it again with another opset_version, or convert it with "
            "onnx.version_converter",
        )
    return int(versions[0])


def element_type(number: int, where: str) -> DType:
    """The element type that ONNX calls ``number``.

    Raises:
        UnsupportedError: graphopt has no such type.
    """
    import onnx

    names = {
        onnx.TensorProto.DOUBLE: DType.F64,
        onnx.TensorProto.FLOAT: DType.F32,
        onnx.TensorProto.BFLOAT16: DType.BF16,
        onnx.TensorProto.FLOAT16: DType.F16,
        onnx.TensorProto.FLOAT8E4M3FN: DType.F8E4M3,
        onnx.TensorProto.FLOAT8E5M2: DType.F8E5M2,
        onnx.TensorProto.INT64: DType.I64,
        onnx.TensorProto.INT32: DType.I32,
        onnx.TensorProto.INT16: DType.I16,
        onnx.TensorProto.INT8: DType.I8,
        onnx.TensorProto.UINT8: DType.U8,
        onnx.TensorProto.BOOL: DType.BOOL,
    }
    if number not in names:
        known = number in onnx.TensorProto.DataType.values()
        raise UnsupportedError(
            "element type is not supported",
            where=where,
            got=onnx.TensorProto.DataType.Name(number) if known else number,
            expected=", ".join(dtype.value for dtype in names.values()),
        )
    return names[number]  # type: ignore[index]


def stored_inside(tensor: onnx.TensorProto, where: str) -> StoredTensor:
    """A tensor whose elements are in the model itself.

    Raises:
        CheckpointError: its elements are elsewhere, or not as many as its shape says.
    """
    import onnx

    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        raise CheckpointError("a constant lies outside the model's file", where=where)
    dtype, shape = element_type(tensor.data_type, where), _shape(tensor, where)
    expected = int(np.prod(shape, dtype=object))
    if tensor.HasField("raw_data"):
        got = len(tensor.raw_data) / dtype.nbytes
    else:
        fields = (tensor.float_data, tensor.double_data, tensor.int32_data, tensor.int64_data)
        got = max(len(field) for field in fields)
    if got != expected:
        raise CheckpointError(
            "a tensor of the model has another number of elements than its shape says",
            where=where,
            got=got,
            expected=expected,
        )
    return StoredTensor(tensor.name, dtype, shape, None, 0, tensor)


def _shape(tensor: onnx.TensorProto, where: str) -> tuple[int, ...]:
    shape = tuple(tensor.dims)
    if any(dim < 0 for dim in shape):
        raise CheckpointError("a tensor of the model has a negative size", where=where, got=shape)
    return shape


def _stored(tensor: onnx.TensorProto, path: Path) -> StoredTensor:
    import onnx

    where = f"{path}: {tensor.name}"
    if tensor.data_location != onnx.TensorProto.EXTERNAL:
        return stored_inside(tensor, where)
    dtype, shape = element_type(tensor.data_type, where), _shape(tensor, where)
    entries = {entry.key: entry.value for entry in tensor.external_data}
    file = _beside(path, entries.get("location", ""), where)
    size = int(np.prod(shape, dtype=object)) * dtype.nbytes
    offset, length = (
        entries.get(key, default) for key, default in (("offset", 0), ("length", size))
    )
    if not str(offset).isdecimal() or not str(length).isdecimal() or int(length) != size:
        raise CheckpointError(
            "a weight lies in a place that does not fit it",
            where=where,
            got=f"offset {offset}, length {length}",
            expected=f"{size} bytes",
        )
    if not file.is_file() or file.stat().st_size < int(offset) + size:
        raise CheckpointError(
            "a weight's file is missing or too short",
            where=where,
            got=f"{file.stat().st_size} bytes" if file.is_file() else f"no file {file.name}",
            expected=f"{int(offset) + size} bytes",
            next="copy all files of the model, and keep their names",
        )
    return StoredTensor(tensor.name, dtype, shape, file, int(offset), tensor)


def _beside(path: Path, location: str, where: str) -> Path:
    """The file that a weight lies in: beside the model, or beside what the model is a link to."""
    parts = (PurePosixPath(location), PureWindowsPath(location))
    outside = any(part.is_absolute() or ".." in part.parts or part.drive for part in parts)
    file = path.parent / location
    if location and not outside and "\0" not in location:
        folders = (path.parent.resolve(), path.resolve().parent)
        if any(file.resolve().is_relative_to(folder) for folder in folders):
            return file
    raise CheckpointError(
        "a weight lies outside the model's folder",
        where=where,
        got=repr(location),
        expected="the name of a file beside the model",
        next="a model that names other files may try to read what is not its own: do not trust it",
    )


def _refuse_elsewhere(model: onnx.ModelProto, path: Path) -> None:
    """Weights in other forms than plain initializers."""
    if model.graph.sparse_initializer:
        raise UnsupportedError("the model has sparse weights", where=str(path))
    if model.training_info:
        raise UnsupportedError("the model holds its training", where=str(path))


def _without_weights(model: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    """The model with its weights as inputs, so that no tool needs their bytes."""
    import onnx
    from onnx import helper

    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    inputs = {one.name for one in bare.graph.input}
    for tensor in model.graph.initializer:
        if tensor.name not in inputs:
            info = helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
            bare.graph.input.append(info)
    del bare.graph.initializer[:]
    return bare


def _check(model: onnx.ModelProto, path: Path) -> None:
    import onnx

    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as error:
        raise _broken(path, str(error).splitlines()[0][:500]) from error


def _inlined(model: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    """The model without local functions."""
    import onnx.inliner

    if not model.functions:
        return model
    bodies = {(one.domain, one.name): one.node for one in model.functions}
    calls = networkx.DiGraph(
        (key, (node.domain, node.op_type))
        for key, nodes in bodies.items()
        for node in nodes_within(nodes)
    )
    if not networkx.is_directed_acyclic_graph(calls):
        raise _broken(path, "its functions call one another in a circle")
    sizes: dict[Any, int] = {}
    for key in reversed(list(networkx.topological_sort(calls))):
        sizes[key] = 1 + sum(
            sizes.get((node.domain, node.op_type), 1) for node in nodes_within(bodies.get(key, ()))
        )
    total = sum(
        sizes.get((node.domain, node.op_type), 1) for node in nodes_within(model.graph.node)
    )
    if total > MAX_NODES:
        raise _broken(path, f"{total} nodes when its functions are expanded")
    return onnx.inliner.inline_local_functions(model)


def nodes_within(nodes: Any) -> Iterator[onnx.NodeProto]:
    """Nodes, and those of the graphs that they hold."""
    for node in nodes:
        yield node
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                yield from nodes_within(graph.node)


def _broken(path: Path, why: str) -> CheckpointError:
    return CheckpointError(
        "the file is not a well-formed ONNX model",
        where=str(path),
        got=why,
        next="export or copy it again",
    )

"""An ONNX model as what graphopt compiles: a decoder over paged memory, or a function.

model = read_onnx(Path("model.onnx"))
if isinstance(model, OnnxDecoder): ...
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graphopt.errors import UnsupportedError, UsageError
from graphopt.ir.builder import without_dead_nodes
from graphopt.ir.graph import Graph, Value
from graphopt.ir.verify import verify

from .json_file import read_object
from .locality import check_locality
from .onnx_call import Equate
from .onnx_causal import Constants, whom_they_see, with_positions
from .onnx_decoder import Asked, DecoderReader, Layer, Seen, layers_of
from .onnx_file import OnnxFile, open_onnx
from .onnx_import import ImportedOnnx, import_onnx
from .unbatch import unbatch

# What a sequence may hold where nothing beside the model says it.
DEFAULT_CONTEXT = 4096
# The longest context whose attention is computed to see that it is causal.
MAX_CONTEXT = 1 << 20
# What an exported model's metadata calls it.
MAX_LENGTH = "max_model_len"
_LENGTHS = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "max_sequence_length")


@dataclass(frozen=True, slots=True)
class OnnxDecoder:
    """A decoder.

    Attributes:
        file: the model's file.
        graph: from a packed step of tokens to logits.
        constants: where the graph's weights are.
        max_model_len: most tokens that a sequence may have.
        model_type: its family, as far as that is known.
        notes: what a user should know, one sentence each.
    """

    file: OnnxFile
    graph: Graph
    constants: Constants
    max_model_len: int
    model_type: str
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class OnnxFunction:
    """A model without a past: its graph, weights and the names of its outputs."""

    file: OnnxFile
    imported: ImportedOnnx


def read_onnx(path: Path, *, max_model_len: int | None = None) -> OnnxDecoder | OnnxFunction:
    """Opens and translates the model at ``path``.

    Raises:
        CheckpointError: it is damaged, or names files that are not its own.
        UnsupportedError: an operator, a type or a form of cache is not supported; it is named.
        MachineError: the onnx package is not installed.
    """
    file = open_onnx(path)
    layers = layers_of(file)
    if layers:
        return _decoder(file, layers, max_model_len)
    imported = import_onnx(file)
    verify(imported.graph)
    return OnnxFunction(file, imported)


def _decoder(file: OnnxFile, layers: Sequence[Layer], wanted: int | None) -> OnnxDecoder:
    config = _config(file.path)
    longest, notes = _context(file, config, wanted)
    first = DecoderReader(file, layers)
    traced = _read(first)
    seen = whom_they_see(traced, first.asked, first.constants(), longest)
    reader = DecoderReader(file, layers, seen, _windows(first.asked, seen))
    graph = _read(reader)
    logits = Graph(graph.name, graph.inputs, graph.weights, graph.nodes, graph.outputs[:1])
    constants = reader.constants()
    graph = with_positions(without_dead_nodes(logits), constants)
    graph = _without(graph, reader.held, file)
    graph = unbatch(graph)
    verify(graph)
    check_locality(graph)
    used = {value.name: constants[value.name] for value in graph.weights}
    family = config.get("model_type") or file.metadata.get("model_type") or "onnx"
    return OnnxDecoder(file, graph, used, longest, str(family), notes)


def _read(reader: DecoderReader) -> Graph:
    try:
        return reader.run()
    except Equate as found:
        raise UnsupportedError(
            "two sizes of the decoder must be one, and are not",
            where=str(reader.file.path),
            got=f"{found.first} and {found.second}",
        ) from found


def _windows(asked: Sequence[Asked], seen: Sequence[Seen]) -> dict[int, int]:
    """How many of the latest tokens each layer must keep, 0 for all."""
    found: dict[int, list[int]] = {}
    for one, its in zip(asked, seen, strict=True):
        found.setdefault(one.layer, []).append(its.window)
    return {layer: max(windows) if all(windows) else 0 for layer, windows in found.items()}


def _without(graph: Graph, held: Collection[Value], file: OnnxFile) -> Graph:
    """The graph without the inputs that stood for the past, which nothing may read any more."""
    graph = without_dead_nodes(graph)
    for value in held:
        if value in graph.users:
            user = graph.users[value][0]
            raise UnsupportedError(
                "the past of a layer is read by something else than attention",
                where=str(user.loc) if user.loc is not None else str(file.path),
                got=f"{user.op} of {value.name}",
            )
    inputs = tuple(value for value in graph.inputs if value not in held)
    return Graph(graph.name, inputs, graph.weights, graph.nodes, graph.outputs)


def _config(path: Path) -> dict[str, Any]:
    """config.json beside the model, if there is one."""
    file = path.parent / "config.json"
    return read_object(file) if file.is_file() else {}


def _context(
    file: OnnxFile, config: Mapping[str, Any], wanted: int | None
) -> tuple[int, tuple[str, ...]]:
    """How long a sequence may be, and what to say about it.

    Raises:
        UsageError: more is wanted than the model was made for.
    """
    found = [config.get(name) for name in _LENGTHS]
    written = file.metadata.get(MAX_LENGTH, "")
    own = next((n for n in found if isinstance(n, int) and n > 0), None)
    if written.isdecimal() and 0 < int(written) < 1 << 31:
        own = int(written)
    if own is not None and wanted is not None and wanted > own:
        raise UsageError(
            "max_model_len is more than the model was made for",
            got=wanted,
            expected=f"at most {own}",
        )
    chosen = wanted or own
    if chosen is not None and chosen > MAX_CONTEXT:
        return MAX_CONTEXT, (f"context limited to {MAX_CONTEXT} tokens of {chosen}",)
    if chosen is not None:
        return chosen, ()
    return DEFAULT_CONTEXT, (
        f"nothing names a longest context: {DEFAULT_CONTEXT} tokens are assumed",
    )

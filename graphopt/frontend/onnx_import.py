"""An ONNX model, or a part of it, as a graph without state.

before:  nodes that name their inputs, shapes computed by nodes of their own
after:   native operators on tensors with symbolic sizes; what has none stays PyTorch's ``aten.*``

    function = import_onnx(open_onnx(Path("encoder.onnx")))
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from graphopt.errors import CheckpointError, IRError, UnsupportedError
from graphopt.ir.builder import GraphBuilder, renumbered, without_dead_nodes
from graphopt.ir.graph import Graph
from graphopt.ir.shape import Dim, Expr, substitute, sym
from graphopt.ir.types import TensorType

from .emitter import Emitter
from .onnx_body import body_of
from .onnx_call import Call, Equate, Result, Rule, Scope, location_of
from .onnx_file import OnnxFile, StoredTensor, element_type
from .onnx_fold import fold
from .onnx_known import Known
from .onnx_layers import LAYERS
from .onnx_pointwise import POINTWISE
from .onnx_shape import SHAPE

if TYPE_CHECKING:
    import onnx

RULES: Mapping[str, Rule] = {**POINTWISE, **SHAPE, **LAYERS}
_STANDARD = ("", "ai.onnx")
_IDENTIFIER = re.compile(r"[A-Za-z_]\w*", re.ASCII)
_MOST_EQUATIONS = 64


@dataclass(frozen=True, slots=True)
class ImportedOnnx:
    """A graph, where its weights are, and the names of its outputs in the model.

    Attributes:
        graph: the graph.
        constants: for each weight the tensor of the model, or elements that were computed.
        outputs: the model's names of the graph's outputs.
    """

    graph: Graph
    constants: Mapping[str, StoredTensor | Known]
    outputs: tuple[str, ...]


class OnnxImporter:
    """Translates the nodes of a model in order.

    Args:
        file: the model.
        inputs: the model's inputs that are already values, and those values.
        builder: makes the graph.
        rules: how to translate operators, beside or instead of the usual ones.
    """

    def __init__(
        self,
        file: OnnxFile,
        builder: GraphBuilder,
        inputs: Mapping[str, Result],
        rules: Mapping[str, Rule] | None = None,
    ) -> None:
        self.file = file
        self.scope = Scope(Emitter(builder), file.weights)
        self._rules = {**RULES, **(rules or {})}
        for name, value in inputs.items():
            self.scope.define(name, value)

    def translate(self, nodes: Iterable[onnx.NodeProto]) -> None:
        """Every node.

        Raises:
            UnsupportedError: an operator is not known, or not in this form; it is named.
            Equate: the model makes sense if two sizes are one.
        """
        for node in nodes:
            self.scope.emit.loc = location_of(node)
            call = Call(node, self.scope, self.file.opset)
            try:
                results = self._results(call)
            except (IRError, ValueError, IndexError, TypeError) as error:
                reason = error.what if isinstance(error, IRError) else str(error)
                raise call.refused(f"it does not fit its inputs: {reason}") from error
            if len(results) < sum(map(bool, node.output)):
                raise call.refused(f"it gives {len(node.output)} outputs")
            for name, result in zip(node.output, results, strict=False):
                if name:
                    self.scope.define(name, result)

    def _results(self, call: Call) -> Sequence[Result]:
        if call.node.domain not in _STANDARD:
            raise call.refused("it is not of the ONNX standard")
        if call.op == "If":
            return self._branch(call)
        folded = fold(call)
        if folded is not None:
            return folded
        rule = self._rules.get(call.op)
        if rule is not None:
            return rule(call)
        body = self._body(call)
        if body is None:
            raise call.refused("graphopt has no form for it")
        return body

    def _branch(self, call: Call) -> Sequence[Result]:
        """The branch of an ``If`` whose condition is known."""
        chosen = call.scalar(0)
        if not isinstance(chosen, bool):
            raise call.refused("which branch runs is not known before the model runs")
        graph = call.attr_graph("then_branch" if chosen else "else_branch")
        if graph.initializer:
            raise call.refused("a branch has weights of its own")
        self.translate(graph.node)
        return [self.result(one.name) for one in graph.output]

    def _body(self, call: Call) -> Sequence[Result] | None:
        """What the standard says an operator is made of, if it says so."""
        body = body_of(call)
        if body is None:
            return None
        self.translate(body)
        return [self.result(name) for name in call.node.output if name]

    def result(self, name: str) -> Result:
        """What ``name`` is."""
        known = self.scope.known(name)
        return self.scope.value(name) if known is None else known


def import_onnx(file: OnnxFile) -> ImportedOnnx:
    """Translates a whole model.

    Raises:
        UnsupportedError: an operator or a type is not supported; it is named.
        CheckpointError: the model's inputs make no sense.
    """
    return solve(file, lambda known: _import(file, known))


def solve(file: OnnxFile, attempt: Callable[[Mapping[str, Dim]], ImportedOnnx]) -> ImportedOnnx:
    """Translates until all sizes that must be one are: with what is known of sizes so far."""
    known: dict[str, Dim] = {}
    for _ in range(_MOST_EQUATIONS):
        try:
            return attempt(known)
        except Equate as found:
            symbol, other = _solved(found, file)
            known = {name: substitute(dim, {symbol: other}) for name, dim in known.items()}
            known[symbol] = other
    raise UnsupportedError("the model's sizes make no sense", where=str(file.path), got=known)


def _solved(found: Equate, file: OnnxFile) -> tuple[str, Dim]:
    """A symbol and what it must be."""
    for mine, other in ((found.second, found.first), (found.first, found.second)):
        if isinstance(mine, Expr) and _IDENTIFIER.fullmatch(str(mine)):
            return str(mine), other
    raise UnsupportedError(
        "two sizes of the model must be one, and are not",
        where=str(file.path),
        got=f"{found.first} and {found.second}",
        next="export the model again with the same name for the same size",
    )


def graph_inputs(file: OnnxFile) -> list[onnx.ValueInfoProto]:
    """The inputs of a model, without its weights."""
    return [one for one in file.model.graph.input if one.name not in file.weights]


def input_type(one: onnx.ValueInfoProto, file: OnnxFile, known: Mapping[str, Dim]) -> TensorType:
    """The type of an input; sizes without a name get one.

    Raises:
        UnsupportedError: it is no tensor, or has no fixed number of dimensions.
    """
    where = f"{file.path}: input {one.name}"
    if not one.type.HasField("tensor_type") or not one.type.tensor_type.HasField("shape"):
        raise UnsupportedError(
            "an input of the model is no tensor with a known number of dimensions",
            where=where,
            got=one.type.WhichOneof("value"),
        )
    dims: list[Dim] = []
    for axis, dim in enumerate(one.type.tensor_type.shape.dim):
        if dim.HasField("dim_value"):
            if dim.dim_value < 0:
                raise CheckpointError("an input has a negative size", where=where)
            dims.append(dim.dim_value)
        else:
            name = _symbol(dim.dim_param) or f"{_symbol(one.name) or 'input'}_{axis}"
            dims.append(substitute(sym(name), known))
    return TensorType(element_type(one.type.tensor_type.elem_type, where), tuple(dims))


def _symbol(name: str) -> str:
    """``name`` if it can be the name of a size, or something like it."""
    cleaned = re.sub(r"\W+", "_", name, flags=re.ASCII).strip("_")
    if not cleaned or not _IDENTIFIER.fullmatch(name):
        return "" if not cleaned or not cleaned[0].isalpha() else f"{cleaned}_"
    try:
        sym(cleaned)
    except IRError:  # a word of the graph's language
        return f"{cleaned}_"
    return cleaned


def _import(file: OnnxFile, known: Mapping[str, Dim]) -> ImportedOnnx:
    builder = GraphBuilder(file.model.graph.name or file.path.stem)
    inputs: dict[str, Result] = {
        one.name: builder.input(one.name, input_type(one, file, known))
        for one in graph_inputs(file)
    }
    importer = OnnxImporter(file, builder, inputs)
    importer.translate(file.model.graph.node)
    names = tuple(one.name for one in file.model.graph.output)
    graph = builder.finish([importer.scope.value(name) for name in names])
    return finished(graph, importer.scope.constants, names)


def finished(
    graph: Graph, constants: Mapping[str, StoredTensor | Known], outputs: tuple[str, ...]
) -> ImportedOnnx:
    """The graph without what nobody reads, and the constants that are left."""
    graph = renumbered(without_dead_nodes(graph))
    used: set[str] = {value.name for value in graph.weights}
    left = {name: tensor for name, tensor in constants.items() if name in used}
    return ImportedOnnx(graph, left, outputs)

"""An exported program, as a graph of the IR.

before:  PyTorch's operators, some of them in place; one ``graphopt::attention`` a layer
after:   native operators on tensors with symbolic sizes; keys and values are a state that
         ``kv_write`` makes new versions of; what has no native operator stays ``aten.*``
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.export.graph_signature import InputKind, OutputKind
from torch.fx import Node

from graphopt.errors import TraceError
from graphopt.ir.builder import renumbered, without_dead_nodes
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Attr, Graph, Value
from graphopt.ir.shape import sym
from graphopt.ir.types import LayerState, StateType, TensorType, Type

from .emitter import type_of
from .export import PREFIX, Exported
from .live import live_nodes, storage_of, writes_in_place
from .lowering import Result, dtype_named
from .sizes import Sizes
from .translator import Translator, name_of_call

T, R, S, P = sym("T"), sym("R"), sym("S"), sym("P")
_KNOWN = 1024  # integers of a constant index that are looked at
_REACH = 8  # its place among the operator's arguments
_STEP_INPUTS = ("token_ids", "positions", "rows")


@dataclass(frozen=True, slots=True)
class AttentionCall:
    """What one attention of the model asked for, for the gates.

    Attributes:
        module: path of the layer that called it.
        layer: the index that the layer calls itself by, -1 if it has none.
        chunk: tokens in a chunk beyond which it does not look, 0 if it looks at all.
        alibi: whether positions enter through a linear bias.
    """

    module: str
    layer: int
    chunk: int
    alibi: bool


@dataclass(frozen=True, slots=True)
class Imported:
    """A graph, the values of its weights that are in no checkpoint, and what the gates need."""

    graph: Graph
    constants: dict[str, torch.Tensor]
    attentions: tuple[AttentionCall, ...]


def import_program(exported: Exported, name: str) -> Imported:
    """Translates an exported program.

    Raises:
        TraceError: the program has something that no graph of the IR can say.
    """
    return _Importer(exported, name).run()


class _Importer(Translator):
    def __init__(self, exported: Exported, name: str) -> None:
        graph = exported.program.graph
        super().__init__(graph, live_nodes(graph), name, PREFIX)
        self.exported = exported
        self.constants: dict[str, torch.Tensor] = {}
        self.attentions: list[AttentionCall] = []

    def run(self) -> Imported:
        """Inputs, weights, then every live call in order."""
        self._refuse_own_state()
        self._inputs()
        self.translate_calls()
        graph = self.builder.finish([self._output()])
        graph = renumbered(without_dead_nodes(graph))
        used = {value.name for value in graph.weights}
        constants = {name: t for name, t in self.constants.items() if name in used}
        return Imported(graph, constants, tuple(self.attentions))

    def special(self, node: Node) -> Callable[[Node], Result] | None:
        """The one operator for attention."""
        return self._attention if name_of_call(node) == "graphopt.attention.default" else None

    def _refuse_own_state(self) -> None:
        """A weight that is written is state from one step to the next."""
        specs = self.exported.program.graph_signature.input_specs
        placeholders = [node for node in self.graph.nodes if node.op == "placeholder"]
        weights = {
            storage_of(node): str(spec.target)
            for node, spec in zip(placeholders, specs, strict=True)
            if spec.kind is not InputKind.USER_INPUT
        }
        for node in self.graph.nodes:
            writes = writes_in_place(node) and not name_of_call(node).startswith("aten.detach_")
            if writes and storage_of(node) in weights:
                raise _keeps_state(weights[storage_of(node)])

    # -- inputs, weights, output ---------------------------------------------------------------

    def _inputs(self) -> None:
        specs = self.exported.program.graph_signature.input_specs
        placeholders = [node for node in self.graph.nodes if node.op == "placeholder"]
        step = [
            node
            for node, spec in zip(placeholders, specs, strict=True)
            if spec.kind is InputKind.USER_INPUT
        ]
        names: dict[str, str] = {}
        for node, size in zip(step, ("T", "T", "R"), strict=True):
            symbol = node.meta["val"].shape[0]
            if not isinstance(symbol, torch.SymInt):
                raise TraceError("the model's code fixes the number of tokens", got=symbol)
            names.setdefault(str(symbol.node.expr), size)
        self.sizes = Sizes(names)
        for node, name, count in zip(step, _STEP_INPUTS, (T, T, R), strict=True):
            self.define(node, self.builder.input(name, TensorType(DType.I64, (count,))))
        self._step_inputs()
        for node, spec in zip(placeholders, specs, strict=True):
            if spec.kind is not InputKind.USER_INPUT and node in self.live:
                self.define(node, self._weight(node, spec))

    def _step_inputs(self) -> None:
        """What the engine says of the step, and the memory."""
        integers: tuple[tuple[str, Type], ...] = (
            ("slots", TensorType(DType.I64, (T,))),
            ("starts", TensorType(DType.I32, (S + 1,))),
            ("lengths", TensorType(DType.I32, (S,))),
            ("tables", TensorType(DType.I32, (S, P))),
        )
        self.slots, self.starts, self.lengths, self.tables = (
            self.builder.input(name, type_) for name, type_ in integers
        )
        layers = tuple(self._layer_state(node) for node in self._attention_nodes())
        self.reaches: Value | None = None
        if any(_reaches(node) for node in self._attention_nodes()):
            self.reaches = self.builder.input("reaches", TensorType(DType.I32, (T,)))
        self.state = self.builder.input("kv", StateType("kv", layers))

    def _attention_nodes(self) -> Iterator[Node]:
        for node in self.graph.nodes:
            if node in self.live and name_of_call(node) == "graphopt.attention.default":
                yield node

    def _layer_state(self, node: Node) -> LayerState:
        key, value = node.args[1].meta["val"], node.args[2].meta["val"]  # type: ignore[union-attr]
        heads, key_size, value_size = key.shape[1], key.shape[2], value.shape[2]
        window = int(node.args[5])  # type: ignore[arg-type]
        return LayerState(
            int(heads), int(key_size), int(value_size), dtype_named(key.dtype), window
        )

    def _weight(self, node: Node, spec: Any) -> Value:
        target = str(spec.target)
        name = target.removeprefix(PREFIX + ".")
        fake = node.meta["val"]
        if spec.kind is InputKind.PARAMETER:
            name = self.exported.aliases.get(name, name)
        elif name in self.exported.buffers:
            self.constants[name] = self.exported.buffers[name].detach()
        else:
            constant = self.exported.program.constants.get(target)
            if not isinstance(constant, torch.Tensor) or isinstance(constant, FakeTensor):
                raise TraceError("a constant of the model has no values", where=name)
            self.constants[name] = constant.detach()
        if fake.dtype.is_complex:
            raise TraceError("a complex weight", where=name)
        type_ = TensorType(dtype_named(fake.dtype), self.sizes.shape(fake))
        value = self.builder.weight(name, type_)
        constant = self.constants.get(name)
        if constant is not None and constant.dtype is torch.int64 and constant.ndim == 1:
            self.emit.known[value] = constant.tolist() if constant.numel() <= _KNOWN else []
        return value

    def _output(self) -> Value:
        specs = self.exported.program.graph_signature.output_specs
        returned: Any = next(node for node in self.graph.nodes if node.op == "output").args[0]
        for spec, node in zip(specs, returned, strict=True):
            if spec.kind is OutputKind.USER_OUTPUT:
                rows = self.read(node)
                if isinstance(rows, Value):
                    return rows
            elif spec.kind is OutputKind.BUFFER_MUTATION:
                raise _keeps_state(str(spec.target))
        raise TraceError("the model returns no tensor")

    def _attention(self, node: Node) -> Value:
        """Splits the one operator: write keys and values, then read them with the queries."""
        call = self.as_call(node)
        loc = self.emit.loc
        query, key, value = (call.value(name) for name in ("q", "k", "v"))
        index = len(self.attentions)
        inputs = [self.state, key, self.emit.cast(value, type_of(key).dtype), self.slots]
        self.state = self.emit.one("kv_write", inputs, {"layer": index})
        read = [query, self.state, self.starts, self.lengths, self.tables]
        extra = [call.value(name) for name in ("sinks", "alibi") if call.has(name)]
        reaches = self.reaches if _reaches(node) else None
        extra += [] if reaches is None else [reaches]
        attrs: dict[str, Attr] = {
            "layer": index,
            "scale": float(call.number("scale")),
            "window": int(call.number("window")),
            "softcap": float(call.number("softcap")),
            "sinks": call.has("sinks"),
            "alibi": call.has("alibi"),
            "reach": reaches is not None,
        }
        module = loc.module if loc is not None else ""
        chunk, layer = int(call.number("chunk")), int(call.number("layer"))
        self.attentions.append(AttentionCall(module, layer, chunk, call.has("alibi")))
        return self.emit.one("attention", [*read, *extra], attrs)


def _reaches(node: Node) -> bool:
    """Whether tokens of an attention see what comes after them."""
    return bool(node.args[_REACH])


def _keeps_state(name: str) -> TraceError:
    return TraceError(
        "the model keeps state of its own from one forward pass to the next",
        where=name.removeprefix(PREFIX + "."),
        next="graphopt keeps keys and values only",
    )

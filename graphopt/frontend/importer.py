"""An exported program, as a graph of the IR.

before:  PyTorch's operators, some of them in place; one ``graphopt::attention`` a layer
after:   native operators on tensors with symbolic sizes; keys and values are a state that
         ``kv_write`` makes new versions of; what has no native operator stays ``aten.*``
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.export.graph_signature import InputKind, OutputKind
from torch.fx import Node

from graphopt.errors import TraceError, VerifyError
from graphopt.ir.builder import GraphBuilder, renumbered, without_dead_nodes
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Attr, Graph, Operand, Value
from graphopt.ir.shape import Expr, sym
from graphopt.ir.types import LayerState, StateType, TensorType, Type

from .emitter import Emitter, type_of
from .export import PREFIX, Exported
from .inplace import insert_into_viewed
from .live import live_nodes, storage_of, writes_in_place
from .lowering import Call, Complex, Lowering, NotLowered, Result, dtype_named
from .lowering_complex import COMPLEX
from .lowering_layers import LAYERS
from .lowering_pointwise import POINTWISE
from .lowering_shape import SHAPE
from .sizes import Sizes
from .source import location_of

LOWERINGS: Mapping[str, Lowering] = {**POINTWISE, **SHAPE, **LAYERS}

T, R, S, P = sym("T"), sym("R"), sym("S"), sym("P")
_KNOWN = 1024  # integers of a constant index that are looked at
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


class _Importer:
    def __init__(self, exported: Exported, name: str) -> None:
        self.exported = exported
        self.graph = exported.program.graph
        self.live = live_nodes(self.graph)
        self.builder = GraphBuilder(name)
        self.emit = Emitter(self.builder)
        self.results: dict[Node, Result] = {}
        self.made_at: dict[Node, int] = {}
        self.written_at: dict[int, int] = {}
        self.constants: dict[str, torch.Tensor] = {}
        self.attentions: list[AttentionCall] = []
        self.clock = 0
        self.sizes = Sizes({})

    def run(self) -> Imported:
        """Inputs, weights, then every live call in order."""
        self._refuse_own_state()
        self._inputs()
        for node in self.graph.nodes:
            if node.op == "call_function" and node in self.live:
                self.clock += 1
                self.emit.loc = location_of(node, PREFIX)
                self._call(node)
        graph = self.builder.finish([self._output()])
        graph = renumbered(without_dead_nodes(graph))
        used = {value.name for value in graph.weights}
        constants = {name: t for name, t in self.constants.items() if name in used}
        return Imported(graph, constants, tuple(self.attentions))

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
            writes = writes_in_place(node) and not _name(node).startswith("aten.detach_")
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
            self._define(node, self.builder.input(name, TensorType(DType.I64, (count,))))
        self._step_inputs()
        for node, spec in zip(placeholders, specs, strict=True):
            if spec.kind is not InputKind.USER_INPUT and node in self.live:
                self._define(node, self._weight(node, spec))

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
        self.state = self.builder.input("kv", StateType("kv", layers))

    def _attention_nodes(self) -> Iterator[Node]:
        for node in self.graph.nodes:
            if node in self.live and _name(node) == "graphopt.attention.default":
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
                logits = self._read(node)
                if isinstance(logits, Value):
                    return logits
            elif spec.kind is OutputKind.BUFFER_MUTATION:
                raise _keeps_state(str(spec.target))
        raise TraceError("the model does not return logits")

    # -- reading, with writes in place seen ------------------------------------------------------

    def _define(self, node: Node, result: Result) -> None:
        self.results[node] = result
        self.made_at[node] = self.clock

    def _read(self, node: Node) -> Result:
        """The result of ``node`` as it is now, after whatever was written through other names."""
        if node not in self.results:
            raise TraceError(
                "the model's code computes with something that is not a tensor or a size",
                where=str(location_of(node, PREFIX)),
                got=f"{_name(node)} gives {type(node.meta.get('val')).__name__}",
                next="values of tokens cannot choose what a graph computes",
            )
        storage = storage_of(node)
        if storage is not None and self.written_at.get(storage, -1) > self.made_at[node]:
            if writes_in_place(node):
                return self._read(node.args[0])  # type: ignore[arg-type]
            viewed = self._viewed(node)
            if viewed is None:
                raise TraceError(
                    "a tensor is written in place through a name graphopt cannot follow",
                    where=str(location_of(node, PREFIX)),
                )
            self._define(node, self._lower(node))
        return self.results[node]

    def _viewed(self, node: Node) -> Node | None:
        """The tensor that ``node`` is a view of, if it is one."""
        source = node.args[0] if node.op == "call_function" and node.args else None
        if isinstance(source, Node) and storage_of(source) == storage_of(node) is not None:
            return source
        return None

    def _resolve(self, item: object) -> object:
        """Arguments with nodes replaced by their results."""
        if isinstance(item, Node):
            return self._read(item)
        if isinstance(item, list | tuple):
            return [self._resolve(each) for each in item]
        return item

    # -- calls -----------------------------------------------------------------------------------

    def _call(self, node: Node) -> None:
        fake = node.meta.get("val")
        if isinstance(fake, torch.SymInt) or (type(fake) is int and not _is_aten(node)):
            self._define(node, self.sizes.dim(fake))
        elif node.target is operator.getitem:
            several, index = node.args
            source = self._read(several) if isinstance(several, Node) else None
            if not isinstance(source, tuple) or not isinstance(index, int):
                raise TraceError("an item of something that has none", got=_name(node))
            self._define(node, source[index])
        elif isinstance(fake, torch.SymBool | torch.SymFloat | bool | float):
            return  # of use to checks only; reading it is an error
        elif _name(node) == "graphopt.attention.default":
            self._define(node, self._attention(node))
        elif writes_in_place(node):
            self._write(node)
        else:
            self._define(node, self._lower(node))

    def _lower(self, node: Node, name: str | None = None) -> Result:
        call = self._as_call(node, name)
        lowering = _find(LOWERINGS, call.name)
        if _has_complex(call):
            lowering = _find(COMPLEX, call.name)
        if lowering is not None:
            try:
                return lowering(call)
            except (NotLowered, VerifyError):
                pass  # this form has no native operator; PyTorch's runs it
        return self._keep(node, call)

    def _as_call(self, node: Node, name: str | None = None) -> Call:
        schema = node.target._schema  # type: ignore[union-attr]
        names = [argument.name for argument in schema.arguments]
        given: dict[str, object] = dict(zip(names, node.args, strict=False))
        given.update(node.kwargs)
        arguments = {key: self._resolve(item) for key, item in given.items()}
        fakes = {
            key: item.meta.get("val") if isinstance(item, Node) else item
            for key, item in given.items()
        }
        name = _name(node) if name is None else name
        return Call(name, self.emit, self.sizes, arguments, fakes, node.meta.get("val"))

    def _keep(self, node: Node, call: Call) -> Result:
        """The call as it is, with its inputs taken out of its arguments."""
        if not call.name.startswith("aten."):
            raise TraceError(
                f"operator {call.name} has no lowering",
                where=str(location_of(node, PREFIX)),
                next="it belongs to a library; graphopt runs PyTorch's own operators only",
            )
        if torch.Tag.nondeterministic_seeded in node.target.tags:  # type: ignore[union-attr]
            raise TraceError(
                "the model's code draws random numbers",
                where=str(location_of(node, PREFIX)),
                got=call.name,
                next="a compiled graph gives the same for the same tokens",
            )
        inputs: list[Value] = []
        template: list[Attr] = []
        for argument in node.target._schema.arguments:  # type: ignore[union-attr]
            given = call.get(argument.name) if call.has(argument.name) else argument.default_value
            template.append(_template(given, inputs, call.name))
        try:
            types = call.types()
        except NotLowered as error:
            raise TraceError(
                f"operator {call.name} gives what the IR cannot say",
                where=str(location_of(node, PREFIX)),
                got=error.got or error.what,
            ) from error
        outputs = self.emit.node(call.name, inputs, {"args": tuple(template)}, types)
        return outputs if isinstance(call.fake, tuple | list) else outputs[0]

    def _write(self, node: Node) -> None:
        """A call that writes its first argument: a new value for everything that looks at it."""
        target = node.args[0]
        storage = storage_of(node)
        if not isinstance(target, Node) or storage is None:
            raise TraceError("a write in place to something that is not a tensor", got=_name(node))
        current = self._read(target)
        if _name(node).startswith("aten.detach_"):
            self._define(node, current)
            return
        views = torch.Tag.inplace_view in node.target.tags  # type: ignore[union-attr]
        new = None if views else self._lower(node, _functional(_name(node)))
        if not isinstance(new, Value) or not isinstance(current, Value):
            raise TraceError(
                "a write in place that graphopt cannot follow",
                where=str(location_of(node, PREFIX)),
                got=_name(node),
            )
        new = self.emit.cast(new, type_of(current).dtype)
        new = self.emit.expand(new, type_of(current).shape)
        self.clock += 1
        self._store(target, new)
        self._define(node, new)
        self.written_at[storage] = self.clock  # what was made before is out of date

    def _store(self, node: Node, new: Value) -> None:
        """Gives ``node``, and all it is a view of, the contents ``new``."""
        viewed = self._viewed(node)
        if viewed is not None and writes_in_place(node):
            self._store(viewed, new)
        elif viewed is not None:
            before = self._read(viewed)
            try:
                whole = insert_into_viewed(self._as_call(node), before, new)
            except NotLowered as error:
                raise TraceError(
                    "a write in place that graphopt cannot follow",
                    where=str(location_of(node, PREFIX)),
                    got=error.what,
                ) from error
            self._store(viewed, whole)
        self._define(node, new)

    def _attention(self, node: Node) -> Value:
        """Splits the one operator: write keys and values, then read them with the queries."""
        call = self._as_call(node)
        loc = self.emit.loc
        query, key, value = (call.value(name) for name in ("q", "k", "v"))
        index = len(self.attentions)
        inputs = [self.state, key, self.emit.cast(value, type_of(key).dtype), self.slots]
        self.state = self.emit.one("kv_write", inputs, {"layer": index})
        read = [query, self.state, self.starts, self.lengths, self.tables]
        extra = [call.value(name) for name in ("sinks", "alibi") if call.has(name)]
        attrs: dict[str, Attr] = {
            "layer": index,
            "scale": float(call.number("scale")),
            "window": int(call.number("window")),
            "softcap": float(call.number("softcap")),
            "sinks": call.has("sinks"),
            "alibi": call.has("alibi"),
        }
        module = loc.module if loc is not None else ""
        chunk, layer = int(call.number("chunk")), int(call.number("layer"))
        self.attentions.append(AttentionCall(module, layer, chunk, call.has("alibi")))
        return self.emit.one("attention", [*read, *extra], attrs)


def _keeps_state(name: str) -> TraceError:
    return TraceError(
        "the model keeps state of its own from one forward pass to the next",
        where=name.removeprefix(PREFIX + "."),
        next="graphopt keeps keys and values only",
    )


def _functional(name: str) -> str:
    """The operator that computes what ``name`` writes: ``aten.add_.Tensor``, ``aten.__iand__``."""
    if name.startswith("aten.__i"):
        return name.replace("aten.__i", "aten.__", 1)
    base, _, overload = name.partition("_.")
    return f"{base}.{overload}"


def _name(node: Node) -> str:
    return str(node.target) if isinstance(node.target, torch._ops.OpOverload) else _plain(node)


def _plain(node: Node) -> str:
    return getattr(node.target, "__name__", str(node.target))


def _is_aten(node: Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and "sym_size" not in str(node.target)


def _find(table: Mapping[str, Callable[[Call], Result]], name: str) -> Lowering | None:
    """The lowering of an overload, or of its operator."""
    return table.get(name) or table.get(".".join(name.split(".")[:2]))


def _has_complex(call: Call) -> bool:
    fakes = [call.fake, *call.fakes()]
    return any(isinstance(fake, torch.Tensor) and fake.dtype.is_complex for fake in fakes)


def _template(given: object, inputs: list[Value], name: str) -> Attr:
    """An argument as an attribute; tensors go to ``inputs``."""
    if isinstance(given, Value):
        if given not in inputs:
            inputs.append(given)
        return Operand(inputs.index(given))
    if isinstance(given, torch.dtype):
        return dtype_named(given)
    if isinstance(given, torch.device):
        return None
    if isinstance(given, torch.layout | torch.memory_format):
        return str(given).removeprefix("torch.")
    if isinstance(given, Sequence) and not isinstance(given, str):
        return tuple(_template(item, inputs, name) for item in given)
    if given is None or isinstance(given, bool | int | float | str | Expr):
        return given
    if isinstance(given, Complex):
        raise TraceError(f"operator {name} on complex numbers has no lowering")
    raise TraceError(f"operator {name} has an argument the IR cannot say", got=repr(given))

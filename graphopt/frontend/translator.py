"""The calls of a traced graph, appended one by one to a graph of the IR.

before:  PyTorch's operators in an ``fx`` graph, some of them in place
after:   native operators on tensors with symbolic sizes; what has none stays ``aten.*``

What the graph's inputs and outputs are, a subclass knows: a decoder's, or a function's.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence, Set

import torch
from torch.fx import Graph as FxGraph
from torch.fx import Node

from graphopt.errors import TraceError, VerifyError
from graphopt.ir.builder import GraphBuilder
from graphopt.ir.graph import Attr, Operand, SourceLocation, Value
from graphopt.ir.shape import Expr

from .emitter import Emitter, type_of
from .inplace import insert_into_viewed
from .live import storage_of, writes_in_place
from .lowering import Call, Complex, Lowering, NotLowered, Result, dtype_named
from .lowering_complex import COMPLEX
from .lowering_layers import LAYERS
from .lowering_pointwise import POINTWISE
from .lowering_shape import SHAPE
from .sizes import Sizes
from .source import location_of

LOWERINGS: Mapping[str, Lowering] = {**POINTWISE, **SHAPE, **LAYERS}


class Translator:
    """Translates the calls of one traced graph.

    Args:
        graph: the traced graph; each node's ``meta["val"]`` says what PyTorch knows of its result.
        live: the nodes to translate.
        name: name of the IR graph.
        prefix: path of the module that was traced, which the paths of its modules begin with.
    """

    def __init__(self, graph: FxGraph, live: Set[Node], name: str, prefix: str = "") -> None:
        self.graph = graph
        self.live = live
        self.prefix = prefix
        self.builder = GraphBuilder(name)
        self.emit = Emitter(self.builder)
        self.sizes = Sizes({})
        self.results: dict[Node, Result] = {}
        self.made_at: dict[Node, int] = {}
        self.written_at: dict[int, int] = {}
        self.clock = 0

    def translate_calls(self) -> None:
        """Every live call in order.

        Raises:
            TraceError: a call is one that no graph of the IR can say.
        """
        for node in self.graph.nodes:
            if node.op == "call_function" and node in self.live:
                self.clock += 1
                self.emit.loc = self.location(node)
                self._call(node)

    # -- what a subclass may say differently -----------------------------------------------------

    def special(self, node: Node) -> Callable[[Node], Result] | None:
        """How to translate a call that no table knows; None for all others."""
        return None

    def location(self, node: Node) -> SourceLocation:
        """Where the model's code makes a call."""
        return location_of(node, self.prefix)

    def accepts(self, node: Node, call: Call, lowered: Result) -> bool:
        """Whether what a lowering gave is what PyTorch says of the call."""
        return True

    def draws(self, node: Node, call: Call) -> bool:
        """Whether a call draws random numbers."""
        return torch.Tag.nondeterministic_seeded in node.target.tags  # type: ignore[union-attr]

    # -- reading, with writes in place seen ------------------------------------------------------

    def define(self, node: Node, result: Result) -> None:
        """From now on ``node`` is ``result``."""
        self.results[node] = result
        self.made_at[node] = self.clock

    def read(self, node: Node) -> Result:
        """The result of ``node`` as it is now, after whatever was written through other names."""
        if node not in self.results:
            raise TraceError(
                "the model's code computes with something that is not a tensor or a size",
                where=str(self.location(node)),
                got=f"{name_of_call(node)} gives {type(node.meta.get('val')).__name__}",
                next="values of tokens cannot choose what a graph computes",
            )
        storage = storage_of(node)
        if storage is not None and self.written_at.get(storage, -1) > self.made_at[node]:
            if writes_in_place(node):
                return self.read(node.args[0])  # type: ignore[arg-type]
            viewed = self._viewed(node)
            if viewed is None:
                raise TraceError(
                    "a tensor is written in place through a name graphopt cannot follow",
                    where=str(self.location(node)),
                )
            self.define(node, self._lower(node))
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
            return self.read(item)
        if isinstance(item, list | tuple):
            return [self._resolve(each) for each in item]
        return item

    # -- calls -----------------------------------------------------------------------------------

    def _call(self, node: Node) -> None:
        fake = node.meta.get("val")
        if isinstance(fake, torch.SymInt) or (type(fake) is int and not _is_aten(node)):
            self.define(node, self.sizes.dim(fake))
        elif node.target is operator.getitem:
            several, index = node.args
            source = self.read(several) if isinstance(several, Node) else None
            if not isinstance(source, tuple) or not isinstance(index, int):
                raise TraceError("an item of something that has none", got=name_of_call(node))
            self.define(node, source[index])
        elif isinstance(fake, torch.SymBool | torch.SymFloat | bool | float):
            return  # of use to checks only; reading it is an error
        elif (special := self.special(node)) is not None:
            self.define(node, special(node))
        elif writes_in_place(node):
            self._write(node)
        else:
            self.define(node, self._lower(node))

    def _lower(self, node: Node, name: str | None = None) -> Result:
        call = self.as_call(node, name)
        lowering = _find(LOWERINGS, call.name)
        if _has_complex(call):
            lowering = _find(COMPLEX, call.name)
        if lowering is not None:
            try:
                lowered = lowering(call)
                if self.accepts(node, call, lowered):
                    return lowered
            except (NotLowered, VerifyError):
                pass  # this form has no native operator; PyTorch's runs it
        return self._keep(node, call)

    def as_call(self, node: Node, name: str | None = None) -> Call:
        """What a lowering sees of ``node``, as if its operator were called ``name``."""
        if not isinstance(node.target, torch._ops.OpOverload):
            raise TraceError(
                f"a call of {name_of_call(node)}, which is no operator of PyTorch",
                where=str(self.location(node)),
            )
        schema = node.target._schema
        names = [argument.name for argument in schema.arguments]
        given: dict[str, object] = dict(zip(names, node.args, strict=False))
        given.update(node.kwargs)
        arguments = {key: self._resolve(item) for key, item in given.items()}
        fakes = {
            key: item.meta.get("val") if isinstance(item, Node) else item
            for key, item in given.items()
        }
        name = name_of_call(node) if name is None else name
        return Call(name, self.emit, self.sizes, arguments, fakes, node.meta.get("val"))

    def _keep(self, node: Node, call: Call) -> Result:
        """The call as it is, with its inputs taken out of its arguments."""
        if not call.name.startswith("aten."):
            raise TraceError(
                f"operator {call.name} has no lowering",
                where=str(self.location(node)),
                next="it belongs to a library; graphopt runs PyTorch's own operators only",
            )
        if self.draws(node, call):
            raise TraceError(
                "the model's code draws random numbers",
                where=str(self.location(node)),
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
                where=str(self.location(node)),
                got=error.got or error.what,
            ) from error
        outputs = self.emit.node(call.name, inputs, {"args": tuple(template)}, types)
        return outputs if isinstance(call.fake, tuple | list) else outputs[0]

    def _write(self, node: Node) -> None:
        """A call that writes its first argument: a new value for everything that looks at it."""
        target = node.args[0]
        storage = storage_of(node)
        if not isinstance(target, Node) or storage is None:
            raise TraceError(
                "a write in place to something that is not a tensor", got=name_of_call(node)
            )
        current = self.read(target)
        if name_of_call(node).startswith("aten.detach_"):
            self.define(node, current)
            return
        views = torch.Tag.inplace_view in node.target.tags  # type: ignore[union-attr]
        new = None if views else self._lower(node, _functional(name_of_call(node)))
        if not isinstance(new, Value) or not isinstance(current, Value):
            raise TraceError(
                "a write in place that graphopt cannot follow",
                where=str(self.location(node)),
                got=name_of_call(node),
            )
        new = self.emit.cast(new, type_of(current).dtype)
        new = self.emit.expand(new, type_of(current).shape)
        self.clock += 1
        self._store(target, new)
        self.define(node, new)
        self.written_at[storage] = self.clock  # what was made before is out of date

    def _store(self, node: Node, new: Value) -> None:
        """Gives ``node``, and all it is a view of, the contents ``new``."""
        viewed = self._viewed(node)
        if viewed is not None and writes_in_place(node):
            self._store(viewed, new)
        elif viewed is not None:
            before = self.read(viewed)
            try:
                whole = insert_into_viewed(self.as_call(node), before, new)
            except NotLowered as error:
                raise TraceError(
                    "a write in place that graphopt cannot follow",
                    where=str(self.location(node)),
                    got=error.what,
                ) from error
            self._store(viewed, whole)
        self.define(node, new)


def _functional(name: str) -> str:
    """The operator that computes what ``name`` writes: ``aten.add_.Tensor``, ``aten.__iand__``."""
    if name.startswith("aten.__i"):
        return name.replace("aten.__i", "aten.__", 1)
    base, _, overload = name.partition("_.")
    return f"{base}.{overload}"


def name_of_call(node: Node) -> str:
    """Such as ``aten.mul.Tensor``."""
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

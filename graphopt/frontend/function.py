"""The operators of a function as a graph of the IR, with the signature that says how to call it.

before:  an ``fx`` graph of operators, whose placeholders are the function's arguments
after:   a graph that computes every result and every write, from values alone, and what a graph
         cannot say beside it: which argument is a size, which result is part of which memory

Sizes come first, for every type is made of them; then arguments, constants and calls; at the end
what the function leaves behind, in its arguments and in what it returns.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.fx import GraphModule, Node
from torch.utils import _pytree as pytree

from graphopt.errors import TraceError
from graphopt.ir.builder import renumbered, without_dead_nodes
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph, SourceLocation, Value
from graphopt.ir.shape import Dim, Expr, symbols
from graphopt.ir.types import TensorType
from graphopt.ir.verify import verify
from graphopt.signature import (
    Again,
    Argument,
    Constant,
    Output,
    Returned,
    Signature,
    Size,
    View,
)

from .argument_names import path_in
from .emitter import type_of
from .live import live_nodes, storage_of, writes_in_place
from .lowering import Call, Result, dtype_named
from .sizes import Sizes
from .source import location_of
from .translator import Translator, name_of_call

# Operators that take a number that varies from call to call and is no size.
_TAKE_NUMBERS = frozenset(
    {"aten.add.Tensor", "aten.sub.Tensor", "aten.mul.Tensor", "aten.div.Tensor", "aten.rsub.Scalar"}
)
# Files whose lines call what is compiled, and say nothing about it.
_CALLERS = ("function_api.py", "external_utils.py")
_PLAIN_TENSORS = (torch.Tensor, torch.nn.Parameter)
# Operators that give back the tensor they were given where there is nothing to do, and writes do.
_GIVE_BACK = frozenset(
    f"aten.{name}"
    for name in (
        "alpha_dropout",
        "atleast_1d",
        "atleast_2d",
        "atleast_3d",
        "contiguous",
        "feature_dropout",
        "flatten",
        "positive",
        "real",
        "resolve_conj",
        "resolve_neg",
        "to",
        "type_as",
    )
)


@dataclass(frozen=True, slots=True)
class Function:
    """A function without state.

    Attributes:
        graph: what it computes.
        signature: how a call is one of the graph.
        constants: tensors that the code holds, by the name of the weight that stands for each.
    """

    graph: Graph
    signature: Signature
    constants: Mapping[str, torch.Tensor]


def function_of(
    traced: GraphModule, fakes: Sequence[Any], sources: Sequence[str], name: str
) -> Function:
    """Translates a function's operators.

    Args:
        traced: the operators; its placeholders are the arguments.
        fakes: what PyTorch knows of each argument.
        sources: what each argument is called in the function's own code.
        name: name of the IR graph.

    Raises:
        TraceError: the function does something that neither graph nor signature can say.
        VerifyError: the graph is none.
    """
    return _FunctionTranslator(traced, fakes, sources, name).run()


class _FunctionTranslator(Translator):
    """One function, as ``function_of`` is given it."""

    def __init__(
        self, traced: GraphModule, fakes: Sequence[Any], sources: Sequence[str], name: str
    ) -> None:
        self.placeholders = [node for node in traced.graph.nodes if node.op == "placeholder"]
        self.memory = [storage_of(node) for node in self.placeholders]
        kept = [storage for storage in self.memory if storage is not None]
        super().__init__(traced.graph, live_nodes(traced.graph, kept), name)
        self.shared = {storage for storage in kept if kept.count(storage) > 1}
        self.traced = traced
        self.fakes = fakes
        self.sources = sources
        self.inputs: list[tuple[str, int]] = []
        self.constants: dict[str, torch.Tensor] = {}
        self.outputs: list[Value] = []
        self.layouts: list[tuple[Dim, ...] | None] = []
        self.output_of: dict[Node, Output] = {}

    def run(self) -> Function:
        """Arguments, constants, calls, then what is written and what is returned."""
        told = self._name_sizes()
        self._arguments()
        self._constants()
        self.translate_calls()
        writes = self._writes()
        (end,) = (node for node in self.graph.nodes if node.op == "output")
        items: Any = end.args[0]
        listed = items if isinstance(items, tuple | list) else (items,)
        names = [_same_tensor(item) if isinstance(item, Node) else None for item in listed]
        returned = tuple(
            self._returned(listed[position])
            if name is None or names.index(name) == position
            else Again(names.index(name))
            for position, name in enumerate(names)
        )
        graph = renumbered(without_dead_nodes(self.builder.finish(self.outputs)))
        verify(graph)
        weights = {value.name for value in graph.weights}
        return Function(
            graph,
            Signature(tuple(self.inputs), told, tuple(self.layouts), writes, returned),
            {name: tensor for name, tensor in self.constants.items() if name in weights},
        )

    def location(self, node: Node) -> SourceLocation:
        """The line, and the module's path below the one that was compiled."""
        found = location_of(node, "")
        if found.file in _CALLERS:
            return SourceLocation("", 0, path_in(found.module))
        return SourceLocation(found.file, found.line, path_in(found.module))

    def accepts(self, node: Node, call: Call, lowered: Result) -> bool:
        """Results have the type PyTorch says; a write may convert to it afterwards."""
        if writes_in_place(node):
            return True
        if call.name == "aten.index.Tensor":
            return False  # PyTorch's own says which index is out of range
        several = lowered if isinstance(lowered, tuple) else (lowered,)
        types = [value.type for value in several if isinstance(value, Value)]
        return len(types) != len(several) or tuple(types) == call.types()

    def as_call(self, node: Node, name: str | None = None) -> Call:
        """Numbers that vary from call to call get the type in which PyTorch computes with them."""
        call = super().as_call(node, name)
        for key, fake in call.fakes_by_name().items():
            number = call.get(key)
            if not isinstance(fake, torch.SymFloat | torch.SymInt) or not isinstance(number, Value):
                continue
            x = call.get("self")
            dtype = type_of(x).dtype if isinstance(x, Value) else None
            known = key == "other" and call.name in _TAKE_NUMBERS
            if not known or not (
                dtype in (DType.F32, DType.F64)
                or (dtype is DType.I64 and isinstance(fake, torch.SymInt))
            ):
                raise TraceError("a number that varies goes into an operator", got=call.name)
            call = call.with_value(key, self.emit.cast(number, dtype))
        return call

    def draws(self, node: Node, call: Call) -> bool:
        """Never: such calls were refused before."""
        return False

    # -- arguments -------------------------------------------------------------------------------

    def _name_sizes(self) -> dict[str, tuple[int, int | None]]:
        """Names the symbols that arguments tell: ``T`` the first, then ``n1``, ``n2``, ..."""
        told: dict[str, tuple[int, int | None]] = {}
        made_of = {
            symbol
            for node in self.traced.graph.nodes
            for value in pytree.tree_leaves(node.meta.get("val"))
            if isinstance(value, torch.Tensor)
            for number in (*value.shape, value.storage_offset())
            if isinstance(number, torch.SymInt)
            for symbol in number.node.expr.free_symbols
        }
        for index, node in enumerate(self.placeholders):
            for dim, size in _sizes_of(node.meta["val"]):
                expression = size.node.expr
                if not expression.is_Symbol or str(expression) in told:
                    continue
                # Whether PyTorch has found out by now depends on what it traced before, so it is
                # asked of what sizes and offsets are made of; the answer guards the graph.
                if _never_negative(size) or (expression in made_of and bool(size >= 0)):
                    told[str(expression)] = (index, dim)
        names = {symbol: f"n{n}" if n else "T" for n, symbol in enumerate(told)}
        self.sizes = Sizes(names)
        return {names[symbol]: place for symbol, place in told.items()}

    def _arguments(self) -> None:
        taken: set[str] = set()
        carried: set[str] = set()
        sizes: list[tuple[str, Dim]] = []
        for index, (node, source) in enumerate(zip(self.placeholders, self.sources, strict=True)):
            fake = node.meta["val"]
            name = _unused(source, taken)
            if isinstance(fake, torch.Tensor):
                type_ = TensorType(dtype_named(fake.dtype), self.sizes.shape(fake))
                carried.update(*(symbols(dim) for dim in type_.shape))
                fixed = all(isinstance(dim, int) for dim in type_.shape)
                is_weight = fixed and isinstance(self.fakes[index], torch.nn.Parameter)
                make = self.builder.weight if is_weight else self.builder.input
                self.define(node, make(name, type_))
                self.inputs.append((name, index))
            elif isinstance(fake, int):
                self.define(node, fake)
            elif isinstance(fake, torch.SymInt) and self.sizes.tells(fake):
                size = self.sizes.dim(fake)
                self.define(node, size)
                sizes.append((name, size))
            else:
                dtype = DType.I64 if isinstance(fake, torch.SymInt) else DType.F64
                self.define(node, self.builder.input(name, TensorType(dtype, ())))
                self.inputs.append((name, index))
        for name, size in sizes:  # an input that nobody reads, whose length tells the size
            if isinstance(size, Expr) and not symbols(size) <= carried:
                self.builder.input(name, TensorType(DType.BOOL, (size,)))
                carried |= symbols(size)

    def _constants(self) -> None:
        taken = {value.name for value in self.builder.finish([]).weights}
        for node in self.graph.nodes:
            if node.op != "get_attr" or node not in self.live:
                continue
            tensor = getattr(self.traced, str(node.target), None)
            tensor = tensor.constant if isinstance(tensor, FakeTensor) else tensor
            if not isinstance(tensor, torch.Tensor) or type(tensor) not in _PLAIN_TENSORS:
                raise TraceError(
                    "the code holds a constant that is not a plain tensor",
                    got=f"{node.target}: {type(tensor).__name__}",
                )
            name = _unused(str(node.target).strip("_"), taken)
            self.constants[name] = tensor.detach()
            type_ = TensorType(dtype_named(tensor.dtype), tuple(map(int, tensor.shape)))
            self.define(node, self.builder.weight(name, type_))

    # -- what a call leaves behind -----------------------------------------------------------------

    def _writes(self) -> tuple[tuple[int, int], ...]:
        """Arguments whose contents change, with the outputs that hold the new ones."""
        if set(self.written_at) & self.shared:
            raise TraceError("the code writes memory that two arguments share")
        constants = (node for node in self.graph.nodes if node.op == "get_attr")
        if any(storage_of(node) in self.written_at for node in constants):
            raise TraceError("the code writes a tensor of its own")
        writes = []
        for index, (node, storage) in enumerate(zip(self.placeholders, self.memory, strict=True)):
            if storage is not None and storage in self.written_at:
                writes.append((index, self._output(self._value(node), None)))
        return tuple(writes)

    def _returned(self, item: object) -> Returned:
        """What one item of the graph's result is."""
        if not isinstance(item, Node):
            if item is None or isinstance(item, bool | int | float | str):
                return Constant(item)
            raise TraceError("the code returns something graphopt does not know", got=repr(item))
        item = _same_tensor(item)
        fake, result = item.meta.get("val"), self.results.get(item)
        if isinstance(fake, torch.SymInt | int) and isinstance(result, int | Expr):
            return Size(result)
        storage = storage_of(item)
        if storage is None:
            raise TraceError(
                "the code returns a number that depends on the values of tensors",
                got=type(fake).__name__,
            )
        if storage in self.shared:
            raise TraceError("the code returns memory that two arguments share")
        if item in self.placeholders:
            return Argument(self.placeholders.index(item))
        if storage in self.memory:
            index = self.memory.index(storage)
            return self._view(item, self.placeholders[index], Argument(index))
        return self._own_memory(item, storage)

    def _own_memory(self, item: Node, storage: int) -> Returned:
        """A result that shares memory with no argument, but maybe with other results."""
        (end,) = (node for node in self.graph.nodes if node.op == "output")
        sharing = {node for node in end.all_input_nodes if storage_of(node) == storage}
        root = item
        if len(sharing) > 1:
            root = next(node for node in self.graph.nodes if storage_of(node) == storage)
        if root.op == "get_attr":
            raise TraceError("the code returns a tensor of its own", got=root.target)
        if root not in self.output_of:
            strides = tuple(self.sizes.dim(stride) for stride in root.meta["val"].stride())
            self.output_of[root] = Output(self._output(self._value(root), strides))
        base = self.output_of[root]
        return base if item is root else self._view(item, root, base)

    def _view(self, item: Node, root: Node, base: Argument | Output) -> Returned:
        fake, origin = item.meta["val"], root.meta["val"]
        if fake.dtype != origin.dtype or fake.is_conj() or fake.is_neg():
            raise TraceError("the code returns memory under another type", got=fake.dtype)
        return View(
            base,
            self.sizes.shape(fake),
            tuple(self.sizes.dim(stride) for stride in fake.stride()),
            self.sizes.dim(fake.storage_offset() - origin.storage_offset()),
        )

    def _value(self, node: Node) -> Value:
        """The contents of ``node`` at the end."""
        result = self.read(node)
        if not isinstance(result, Value):
            raise TraceError("the code returns complex numbers", got=node.name)
        wanted = TensorType(dtype_named(node.meta["val"].dtype), self.sizes.shape(node.meta["val"]))
        if type_of(result) != wanted:
            raise TraceError(
                "a result has another type than in PyTorch", got=result, expected=wanted
            )
        return result

    def _output(self, value: Value, strides: tuple[Dim, ...] | None) -> int:
        self.outputs.append(value)
        self.layouts.append(strides)
        return len(self.outputs) - 1


def _same_tensor(node: Node) -> Node:
    """The first name of a tensor that calls gave back as it was."""
    while node.args and isinstance(first := node.args[0], Node):
        packet = ".".join(name_of_call(node).split(".")[:2])
        shared = storage_of(first) == storage_of(node) is not None
        if not writes_in_place(node) and not (
            shared and packet in _GIVE_BACK and first.meta["val"].ndim == node.meta["val"].ndim
        ):
            break
        node = first
    return node


def _sizes_of(fake: object) -> Iterator[tuple[int | None, torch.SymInt]]:
    """The symbolic sizes that an argument tells, and which of its dimensions each is."""
    if isinstance(fake, torch.SymInt):
        yield None, fake
    elif isinstance(fake, torch.Tensor):
        for dim, size in enumerate(fake.shape):
            if isinstance(size, torch.SymInt):
                yield dim, size


def _never_negative(size: torch.SymInt) -> bool:
    """Whether PyTorch knows a symbolic integer to be at least 0, as the IR's sizes are."""
    known = size.node.shape_env.bound_sympy(size.node.expr)
    return bool(known.lower >= 0)


def _unused(name: str, taken: set[str]) -> str:
    """``name``, or the first of ``name_2``, ``name_3``, ... that is free."""
    found, number = name, 2
    while found in taken:
        found, number = f"{name}_{number}", number + 1
    taken.add(found)
    return found

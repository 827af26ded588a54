"""A function or module as PyTorch's graph capture hands it over, as a graph of the IR.

before:  an ``fx`` graph of PyTorch calls, with parameters among its arguments
after:   a graph whose inputs are the arguments and whose weights are the parameters, a signature
         that says what is written and what shares memory, and the tensors the code itself holds

The captured graph is traced once more, down to the operators that a checkpoint's graph has. Where
autocast is on, it is traced below it, so that every cast is in the graph. What cannot be said in a
graph without a doubt is an error, and the caller runs what was captured as it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.fx import GraphModule, Interpreter, Node
from torch.fx import traceback as fx_traceback
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from graphopt.errors import GraphoptError, TraceError, UnsupportedError
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

from .emitter import type_of
from .live import is_check, live_nodes, storage_of, writes_in_place
from .lowering import Call, Result, dtype_named
from .sizes import Sizes
from .source import location_of
from .translator import Translator, name_of_call

# Arguments without which an operator of chance draws nothing, and the value that says so.
_CHANCES = {"dropout_p": 0.0, "dropout": 0.0, "train": False, "training": False}
# Operators that take a number that varies from call to call and is no size.
_TAKE_NUMBERS = frozenset(
    {"aten.add.Tensor", "aten.sub.Tensor", "aten.mul.Tensor", "aten.div.Tensor", "aten.rsub.Scalar"}
)
# Arguments that make a normalisation update its running statistics, which no schema says.
_UPDATES = ("training", "use_input_stats", "train")
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
_ROOT = re.compile(r"^[LG]\['(\w+)'\]")
_PART = re.compile(r"\['([^']*)'\]|\[(\w+)\]")
_HIDDEN = re.compile(r"\._(?:modules|parameters|buffers)(?=\[)")


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


def refuse_training(captured: GraphModule, where: str) -> None:
    """Demands that nothing in a captured graph records gradients for the caller.

    Raises:
        UnsupportedError: something does.
    """
    calls = [node for node in captured.graph.nodes if node.op == "call_function"]
    switches = any(node.target is torch._C._set_grad_enabled and node.args[0] for node in calls)
    if not switches and not torch.is_grad_enabled():
        return
    if any(_transforms(node) for node in calls):
        return  # its gradients are its own; it is never imported
    for node in captured.graph.nodes:
        if node.op in ("placeholder", "get_attr", "output"):
            continue
        found = pytree.tree_leaves(node.meta.get("example_value"))
        if any(isinstance(fake, torch.Tensor) and fake.requires_grad for fake in found):
            raise UnsupportedError(
                "training is not supported: a result would record gradients",
                where=where,
                got=f"{node.name} requires grad, and grad mode is on",
                expected="a call under torch.no_grad() or torch.inference_mode()",
                next="wrap the call in `with torch.no_grad():`, or freeze the parameters with "
                "requires_grad_(False); to train, call what was compiled without the decorator",
            )


def refuse_devices(captured: GraphModule, where: str) -> None:
    """Demands that all tensors of a captured graph are on the CPU.

    Raises:
        UnsupportedError: one is not.
    """
    for node in captured.graph.nodes:
        for fake in pytree.tree_leaves(node.meta.get("example_value")):
            if isinstance(fake, torch.Tensor) and fake.device.type != "cpu":
                raise UnsupportedError(
                    f"functions on {fake.device.type} tensors are not supported yet",
                    where=where,
                    got=f"{node.name} on {fake.device}",
                    expected="tensors on the CPU",
                    next="move module and arguments to the CPU; functions on CUDA tensors come "
                    "with the GPU kernels",
                )


def import_function(captured: GraphModule, name: str) -> Function:
    """Translates a graph that PyTorch captured, whose placeholders carry example values.

    Args:
        captured: the graph; its guards are PyTorch's, and more are added to them while it is
            traced again.
        name: name of the IR graph.

    Raises:
        GraphoptError: the graph has something that no graph of the IR can say.
    """
    placeholders = [node for node in captured.graph.nodes if node.op == "placeholder"]
    fakes = [_number_in(node) for node in placeholders]
    for node, fake in zip(placeholders, fakes, strict=True):
        _check_argument(node.name, fake)
    for node in captured.graph.nodes:
        if _transforms(node):
            raise TraceError("a transform of torch.func is at work", got=name_of_call(node))
    traced = _trace_again(captured, fakes)
    for node in traced.graph.nodes:
        _check_call(node)
    sources = [_source_name(node) for node in placeholders]
    return _FunctionTranslator(traced, fakes, sources, name).run()


def _trace_again(captured: GraphModule, fakes: Sequence[Any]) -> GraphModule:
    """The captured calls as operators: above autograd, as exported checkpoints have them.

    Raises:
        TraceError: PyTorch cannot trace it.
    """
    below_autocast = torch.is_autocast_enabled("cpu") or any(
        "autocast" in name_of_call(node)
        for node in captured.graph.nodes
        if node.op == "call_function"
    )

    def run(*arguments: Any) -> Any:
        return _Captured(captured).run(*arguments)

    tracer = make_fx(run, tracing_mode="symbolic", pre_dispatch=not below_autocast)
    try:
        with fx_traceback.preserve_node_meta():
            return tracer(*fakes)
    except GraphoptError:
        raise
    except Exception as error:
        lines = str(error).strip().split("\n")
        raise TraceError(
            "PyTorch cannot trace the function's operators",
            got=f"{type(error).__name__}: {lines[0][:300]}",
        ) from error


def _transforms(node: Node) -> bool:
    """Whether a call enters or leaves a transform such as ``vmap`` or ``grad``."""
    home = f"{getattr(node.target, '__module__', '')}.{name_of_call(node)}"
    return node.op == "call_function" and "functorch" in home


class _Captured(Interpreter):
    """Runs captured calls, two of them as PyTorch runs them and not as it traces them.

    The number in an argument that is one is the argument itself. Dropout that drops nothing gives
    back the tensor it was given; traced, it would give a copy.
    """

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Calls a function."""
        if target in (torch.nn.functional.dropout, torch.dropout):
            names = ("input", "p", "train" if target is torch.dropout else "training")
            given = {**dict(zip(names, args, strict=False)), **kwargs}
            if given.get(names[2], True) is False or given.get("p", 0.5) == 0.0:
                return given["input"]
        return super().call_function(target, args, kwargs)

    def call_method(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Calls a method of the first argument."""
        if target == "item" and isinstance(args[0], torch.SymFloat):
            return args[0]
        return super().call_method(target, args, kwargs)


def _number_in(node: Node) -> object:
    """What PyTorch knows of an argument: the number, of a tensor that only carries a float."""
    taken = list(node.users)
    if taken and all(user.op == "call_method" and user.target == "item" for user in taken):
        number = taken[0].meta.get("example_value")
        if isinstance(number, torch.SymFloat):
            return number
    return node.meta["example_value"]


def _check_argument(name: str, fake: object) -> None:
    """Demands a plain dense tensor or a number."""
    if isinstance(fake, int | torch.SymInt | torch.SymFloat) and not isinstance(fake, bool):
        return
    if not isinstance(fake, torch.Tensor):
        raise TraceError(
            "an argument is neither a tensor nor an integer", where=name, got=type(fake).__name__
        )
    if is_traceable_wrapper_subclass(fake):
        raise TraceError("an argument is a tensor of a kind of its own", where=name, got=fake)
    if fake.layout is not torch.strided or fake.is_conj() or fake.is_neg():
        raise TraceError(
            "an argument is not a plain dense tensor", where=name, got=fake.layout, expected="dense"
        )


def _check_call(node: Node) -> None:
    """Demands that what a call does besides giving a result is something the importer follows.

    Raises:
        TraceError: it checks values, draws numbers, or writes what its schema does not say or not
            only its first argument.
    """
    if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
        return
    if is_check(node):
        raise TraceError("the code asserts something about values", got=name_of_call(node))
    given = dict(_arguments_of(node, node.target._schema))
    if torch.Tag.nondeterministic_seeded in node.target.tags and _draws(given):
        raise TraceError("the code draws random numbers", got=name_of_call(node))
    updates = any(given.get(name) is True for name in _UPDATES)
    if updates and given.get("running_mean") is not None:
        raise TraceError("a norm updates its running statistics", got=name_of_call(node))
    written = [argument.name for argument in node.target._schema.arguments if _written(argument)]
    first = node.args[0] if node.args else None
    if written and (len(written) > 1 or not writes_in_place(node) or not isinstance(first, Node)):
        raise TraceError("a call writes several tensors", got=name_of_call(node))


def _arguments_of(node: Node, schema: torch.FunctionSchema) -> Iterator[tuple[str, object]]:
    """Arguments of a call by name, those that are left out included."""
    for place, argument in enumerate(schema.arguments):
        if place < len(node.args):
            yield argument.name, node.args[place]
        else:
            yield argument.name, node.kwargs.get(argument.name, argument.default_value)


def _draws(given: Mapping[str, object]) -> bool:
    return not any(name in given and given[name] == off for name, off in _CHANCES.items())


def _written(argument: Any) -> bool:
    return argument.alias_info is not None and argument.alias_info.is_write


class _FunctionTranslator(Translator):
    """One function.

    Args:
        traced: its operators.
        fakes: what PyTorch knows of its arguments.
        sources: what each argument is called in the function's own code.
        name: name of the IR graph.
    """

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
            return SourceLocation("", 0, _path(found.module))
        return SourceLocation(found.file, found.line, _path(found.module))

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
            for _, size in _sizes_of(value)
            for symbol in size.node.expr.free_symbols
        }
        for index, node in enumerate(self.placeholders):
            for dim, size in _sizes_of(node.meta["val"]):
                expression = size.node.expr
                if not expression.is_Symbol or str(expression) in told:
                    continue
                # Whether PyTorch has found out by now depends on what it traced before, so it is
                # asked of what sizes are made of; the answer guards the graph.
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


def _source_name(node: Node) -> str:
    """What an argument is called: ``layers.0.weight`` for ``L['self']._modules['layers']...``."""
    source: Any = getattr(node, "_dynamo_source", None)
    if source is None:
        return node.name
    text = str(source.name() if callable(source.name) else source.name)
    root = _ROOT.match(text)
    if root is None or _HIDDEN.match(text, root.end()):
        return _path(text) or node.name
    return ".".join(filter(None, (root[1], _path(text))))


def _path(text: str) -> str:
    """The attributes and items that an expression takes of a variable, with dots between them."""
    root = _ROOT.match(text)
    rest = _HIDDEN.sub("", text[root.end() :] if root else text)
    return ".".join(re.findall(r"\w+", _PART.sub(lambda part: f".{part[1] or part[2]}", rest)))


def _unused(name: str, taken: set[str]) -> str:
    """``name``, or the first of ``name_2``, ``name_3``, ... that is free."""
    found, number = name, 2
    while found in taken:
        found, number = f"{name}_{number}", number + 1
    taken.add(found)
    return found

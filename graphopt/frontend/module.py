"""A function or module as PyTorch's graph capture hands it over, as a graph of the IR.

before:  an ``fx`` graph of PyTorch calls, with parameters among its arguments
after:   a graph whose inputs are the arguments and whose weights are the parameters, a signature
         that says what is written and what shares memory, and the tensors the code itself holds

Here the captured graph is checked, and traced once more, down to the operators that a checkpoint's
graph has; ``function.py`` translates those. Where autocast is on, the graph is traced below it, so
that every cast is in it. What cannot be said in a graph without a doubt is an error, and the caller
runs what was captured as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch.fx import GraphModule, Interpreter, Node
from torch.fx import traceback as fx_traceback
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from graphopt.errors import GraphoptError, TraceError, UnsupportedError

from .argument_names import source_name
from .function import Function, function_of
from .live import is_check, writes_in_place
from .translator import name_of_call

# Arguments without which an operator of chance draws nothing, and the value that says so.
_CHANCES = {"dropout_p": 0.0, "dropout": 0.0, "train": False, "training": False}
# Arguments that make a normalisation update its running statistics, which no schema says.
_UPDATES = ("training", "use_input_stats", "train")


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
    sources = [source_name(node) for node in placeholders]
    return function_of(traced, fakes, sources, name)


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

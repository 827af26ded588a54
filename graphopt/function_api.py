"""Wires the layers together for functions and modules: ``graphopt.compile`` and ``explain``.

PyTorch's graph capture decides when a graph may be used again, and hands each graph it captures to
the backend here, which takes it through frontend, passes and code generation. A graph that cannot
be imported runs as it was captured: slower, and never wrong.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial, wraps
from types import FunctionType, MethodType
from typing import TYPE_CHECKING, Any, TypeVar, cast, overload

from graphopt.errors import CompileError, GraphoptError, UnsupportedError, UsageError
from graphopt.ir.printer import print_graph
from graphopt.ledger import Ledger, refuse
from graphopt.stages import form
from graphopt.target import Target

if TYPE_CHECKING:
    import torch

    from graphopt.runtime.executors.function import FunctionExecutor

Decorated = TypeVar("Decorated", bound=Callable[..., Any])

_LOG = logging.getLogger("graphopt")
_ORIGINAL = "__graphopt_original__"  # what a compiled function was made from


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


@dataclass(frozen=True, slots=True)
class CapturedGraph:
    """One graph that was captured.

    Attributes:
        name: what the graph is called.
        text: the graph of the IR after the last pass; empty if it runs as it was captured.
        operators: how often each operator occurs in it.
        fallback: why it runs as it was captured; empty if it was compiled.
        ended: why the capture ended here, where that is not the function's end.
    """

    name: str
    text: str
    operators: tuple[tuple[str, int], ...]
    fallback: str
    ended: str

    def __str__(self) -> str:
        lines = [f"{self.name}: runs as it was captured, because {self.fallback}"]
        if not self.fallback:
            counts = ", ".join(f"{count} {op}" for op, count in self.operators)
            lines = [f"{self.name}: compiled: {counts or 'no operators'}"]
        if self.ended:
            lines.append(f"  then a graph break: {self.ended}")
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class Explanation:
    """What compiling a function made of one call.

    Attributes:
        name: the function.
        graphs: the graphs that were captured, in order.
        breaks: why the capture was interrupted, each place once.
        ledger: what passes and backends decided.
    """

    name: str
    graphs: tuple[CapturedGraph, ...]
    breaks: tuple[str, ...]
    ledger: Ledger

    def __str__(self) -> str:
        applied = sum(entry.applied for entry in self.ledger.entries)
        refused = len(self.ledger.entries) - applied
        lines = [
            f"{self.name}: {_count(len(self.graphs), 'graph')}, "
            f"{_count(len(self.breaks), 'graph break')}; "
            f"ledger: {applied} applied, {refused} refused"
        ]
        lines += [f"  {line}" for graph in self.graphs for line in str(graph).split("\n")]
        lines += [f"  break: {reason}" for reason in self.breaks]
        lines += [
            f"  refused: {entry.rule} at {entry.where}: {entry.reason}"
            for entry in self.ledger.entries
            if not entry.applied
        ]
        return "\n".join(lines)


@overload
def compile(
    target: Decorated, *, dynamic: bool | None = None, fullgraph: bool = False
) -> Decorated: ...


@overload
def compile(
    target: None = None, *, dynamic: bool | None = None, fullgraph: bool = False
) -> Callable[[Decorated], Decorated]: ...


def compile(
    target: Callable[..., Any] | None = None,
    *,
    dynamic: bool | None = None,
    fullgraph: bool = False,
) -> Any:
    """Compile a function, a module or a module class; use it like ``torch.compile``.

    A class is given its compiled ``forward`` in place, so that its name, its subclasses and its
    pickles stay what they are; functions and modules are wrapped and left as they are.

    Args:
        target: a function, method or other callable, an ``nn.Module`` or a subclass of it; left out
            where options are given to the decorator.
        dynamic: None lets the first dimension of each tensor argument vary, True every dimension,
            False none: each size has its own graph.
        fullgraph: refuse a function that PyTorch captures in more than one graph.

    Returns:
        What behaves as ``target``, or a decorator if there is none.

    Raises:
        UsageError: ``target`` cannot be compiled.
        UnsupportedError: (when called) gradients would be recorded, or a tensor is not on the CPU.

    Example:
        >>> @graphopt.compile
        ... def scaled(x, w): return x @ w * 2
    """
    if target is None:
        return partial(compile, dynamic=dynamic, fullgraph=fullgraph)
    if isinstance(target, staticmethod | classmethod):
        return type(target)(compile(target.__func__, dynamic=dynamic, fullgraph=fullgraph))
    import torch

    if not callable(target):
        raise UsageError(
            "only functions, modules and module classes can be compiled",
            got=type(target).__name__,
        )
    if isinstance(target, type):
        if not issubclass(target, torch.nn.Module):
            raise UsageError(
                "a class that is not a module cannot be compiled",
                got=target.__qualname__,
                expected="a subclass of torch.nn.Module",
                next="decorate its methods instead",
            )
        target.forward = compile(target.forward, dynamic=dynamic, fullgraph=fullgraph)
        return target
    if _original(target) is not target:
        return target
    backend = _Backend(_name_of(target))
    return _captured(target, backend, dynamic=dynamic, fullgraph=fullgraph)


def explain(target: Callable[..., Any], /, *arguments: Any, **named: Any) -> Explanation:
    """What compiling ``target`` makes of one call, which is made.

    Args:
        target: a function or a module, compiled or not.
        *arguments: what to call it with.
        **named: what to call it with, by name.

    Raises:
        GraphoptError: the call is one that is refused.

    Example:
        >>> print(graphopt.explain(model, x))
    """
    from torch._dynamo.utils import graph_break_reasons

    original = _original(target)
    backend = _Backend(_name_of(original))
    seen = len(graph_break_reasons)
    _captured(_with_own_code(original), backend)(*arguments, **named)
    reasons = graph_break_reasons[seen:]
    breaks = dict.fromkeys(_reason(reason) for reason in reasons)
    return Explanation(backend.name, tuple(backend.graphs), tuple(breaks), backend.ledger)


@dataclass(eq=False)
class _Backend:
    """What graph capture calls with each graph; remembers what became of it.

    Attributes:
        name: what is being compiled.
        graphs: what was captured so far.
        ledger: what was decided.
        misfits: why graphs that there are do not fit the call for which one is captured.
    """

    name: str
    graphs: list[CapturedGraph] = field(default_factory=list)
    ledger: Ledger = field(default_factory=Ledger)
    misfits: list[str] = field(default_factory=list)

    def __call__(
        self, captured: torch.fx.GraphModule, examples: Sequence[Any]
    ) -> Callable[..., Any]:
        """A callable that computes what ``captured`` does, or raises why it never will."""
        from graphopt.frontend.module import refuse_devices, refuse_training

        name = f"{self.name}_{len(self.graphs)}"
        if self.misfits:
            _LOG.info("%s is compiled again: %s", self.name, self.misfits[0])
            self.misfits.clear()
        broken = getattr(captured, "compile_subgraph_reason", None)
        ended = _reason(broken) if broken is not None and broken.graph_break else ""
        for check in (refuse_devices, refuse_training):
            try:
                check(captured, self.name)
            except UnsupportedError as error:
                self.ledger.record("function", name, refuse(error.what))
                return partial(_refuse, check, captured, self.name)
        try:
            text, operators, executor = _built(captured, name, self.ledger)
        except GraphoptError as error:
            reason = f"{error.what}: {error.got}" if error.got else error.what
            self.graphs.append(CapturedGraph(name, "", (), reason, ended))
            self.ledger.record("function", name, refuse(reason))
            _LOG.warning("%s runs through PyTorch as it was captured: %s", name, reason)
            return captured.forward
        self.graphs.append(CapturedGraph(name, text, operators, "", ended))
        return partial(_call, executor, captured.forward)

    def recompiled(self, failure: Any) -> None:
        """Told by graph capture why a graph it has does not fit a call, the latest graph first."""
        found = re.sub(r"^\d+/\d+: ", "", str(failure.reason).split("\n")[0])
        self.misfits.append(found.split("  #")[0].strip())


def _built(
    captured: torch.fx.GraphModule, name: str, ledger: Ledger
) -> tuple[str, tuple[tuple[str, int], ...], FunctionExecutor]:
    """What ``_build`` makes; every failure of it has a reason, and none stops the caller."""
    try:
        return _build(captured, name, ledger)
    except GraphoptError:
        raise
    except Exception as error:
        raise CompileError(
            "a defect of graphopt", where=name, got=f"{type(error).__name__}: {error}"
        ) from error


def _build(
    captured: torch.fx.GraphModule, name: str, ledger: Ledger
) -> tuple[str, tuple[tuple[str, int], ...], FunctionExecutor]:
    """Import, rewrite and plan one captured graph."""
    from collections import Counter

    from graphopt.frontend.module import import_function
    from graphopt.passes.manager import PassContext
    from graphopt.passes.pipeline import function_pipeline
    from graphopt.runtime.executors.function import FunctionExecutor

    function = import_function(captured, name)
    formed = form(
        function.graph,
        function_pipeline(),
        Target("cpu"),
        PassContext(ledger),
        fixed_weights=False,  # whoever holds a tensor may write it between two calls
    )
    executor = FunctionExecutor(
        formed.graph, formed.regions, formed.kernels, function.signature, function.constants
    )
    counts = Counter(node.op for node in formed.graph.nodes)
    return print_graph(formed.graph), tuple(counts.most_common()), executor


def _call(executor: FunctionExecutor, captured: Callable[..., Any], *arguments: Any) -> Any:
    """Run the plan, or the captured graph where arguments overlap that the function writes."""
    if executor.writes_shared(arguments):
        return captured(*arguments)
    return executor(*arguments)


def _refuse(
    check: Callable[[Any, str], None], captured: torch.fx.GraphModule, name: str, *arguments: Any
) -> None:
    check(captured, name)


def _captured(
    target: Callable[..., Any],
    backend: _Backend,
    *,
    dynamic: bool | None = None,
    fullgraph: bool = False,
) -> Callable[..., Any]:
    """``target`` under graph capture, with the sizes of its arguments marked before each call."""
    import torch
    import torch._dynamo

    from graphopt.frontend.capturing import keep_device_guard

    keep_device_guard()
    optimize: Any = torch._dynamo.optimize
    context = optimize(
        backend, nopython=fullgraph, dynamic=dynamic, guard_fail_fn=backend.recompiled
    )
    code = target if isinstance(target, FunctionType | MethodType) else _with_own_code(target)
    call = _marking(target, context(code), varies=dynamic is None)
    if not isinstance(target, torch.nn.Module):
        setattr(call, _ORIGINAL, (call, target))
        return call
    module = context(target)
    module.forward = call
    object.__setattr__(module, _ORIGINAL, (module, target))  # its own would reach into ``target``
    return cast("Callable[..., Any]", module)


def _marking(
    target: Callable[..., Any], run: Callable[..., Any], *, varies: bool
) -> Callable[..., Any]:
    """``run``, told before each call what may vary; inside another capture, plain ``target``."""
    import torch
    from torch.utils import _pytree as pytree

    from graphopt.frontend.capturing import capturing

    def call(*arguments: Any, **named: Any) -> Any:
        if torch.compiler.is_compiling():
            return target(*arguments, **named)
        if varies:
            for leaf in pytree.arg_tree_leaves(*arguments, **named):
                _let_vary(leaf)
        with capturing():
            return run(*arguments, **named)

    return wraps(target)(call) if hasattr(target, "__name__") else call


def _let_vary(argument: object) -> None:
    """Ask graph capture for a graph that fits any size of an argument's first dimension."""
    import torch
    import torch._dynamo

    if isinstance(argument, torch.Tensor) and not isinstance(argument, torch.nn.Parameter):
        marked = getattr(argument, "_dynamo_weak_dynamic_indices", ())
        if argument.ndim and 0 not in marked:
            torch._dynamo.maybe_mark_dynamic(argument, 0)


def _original(target: Callable[..., Any]) -> Callable[..., Any]:
    """What a compiled function or module was made from; anything else is its own original."""
    compiled, original = getattr(target, _ORIGINAL, (None, None))
    return original if compiled is target and original is not None else target


def _with_own_code(target: Callable[..., Any]) -> Callable[..., Any]:
    """``target`` as code of its own, for graphs are kept, and counted, by the code they are of."""
    if isinstance(target, MethodType):
        return MethodType(_with_own_code(target.__func__), target.__self__)
    if not isinstance(target, FunctionType):

        def call(*arguments: Any, **named: Any) -> Any:
            return target(*arguments, **named)

        return _with_own_code(call)
    copied = FunctionType(
        target.__code__.replace(),
        target.__globals__,
        target.__name__,
        target.__defaults__,
        target.__closure__,
    )
    copied.__kwdefaults__ = target.__kwdefaults__
    return copied


def _name_of(target: Callable[..., Any]) -> str:
    """A word for a function, or for a module's class."""
    name = getattr(target, "__qualname__", type(target).__qualname__)
    return re.sub(r"\W+", "_", name.rpartition("<locals>.")[2]).strip("_") or "function"


def _reason(broken: Any) -> str:
    """One line for a graph break: why, and the user's line."""
    text = " ".join(line.strip() for line in str(broken.reason).split("\n")[:2]).strip()
    if not broken.user_stack:
        return text
    last = broken.user_stack[-1]
    file = last.filename.replace("\\", "/").rpartition("/")[2]
    return f"{text} ({file}:{last.lineno})"

"""Functions as PyTorch's graph capture hands them over, and as the importer makes of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch._dynamo

from graphopt.errors import GraphoptError
from graphopt.frontend.function import Function
from graphopt.frontend.module import import_function


def each_graph(
    use: Callable[[torch.fx.GraphModule], None], function: Callable[..., Any], *arguments: Any
) -> None:
    """Calls ``use`` with each graph that one call of ``function`` is captured in."""

    def backend(captured: torch.fx.GraphModule, examples: object) -> Callable[..., Any]:
        use(captured)
        return captured.forward

    torch._dynamo.reset()
    for argument in arguments:
        if isinstance(argument, torch.Tensor) and argument.ndim:
            torch._dynamo.maybe_mark_dynamic(argument, 0)
    with torch.no_grad():
        torch._dynamo.optimize(backend)(function)(*arguments)


def imported(function: Callable[..., Any], *arguments: Any) -> Function:
    """The only graph of ``function``, imported."""
    found: list[Function | GraphoptError] = []

    def use(captured: torch.fx.GraphModule) -> None:
        try:
            found.append(import_function(captured, "test"))
        except GraphoptError as error:
            found.append(error)

    each_graph(use, function, *arguments)
    (only,) = found
    if isinstance(only, GraphoptError):
        raise only
    return only


def ops(function: Function) -> list[str]:
    return [node.op for node in function.graph.nodes]

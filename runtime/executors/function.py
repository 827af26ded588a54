"""Runs a compiled function through PyTorch: arguments in, results out, memory shared as it was.

before:  a graph without state, the regions it is run in, and how a call is one of the graph
after:   a callable with the effects of the function itself: new contents of arguments it writes,
         results that are views of arguments where its own are

All values are computed before any argument is written, so an argument keeps its old contents until
nobody reads them. An executor holds no state of a call: any number of threads may use one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from graphopt.errors import CompileError
from graphopt.ir.graph import Graph, Node, Value
from graphopt.ir.printer import print_node
from graphopt.ir.reference import Step, prepare
from graphopt.ir.shape import Dim, evaluate
from graphopt.region import Region
from graphopt.signature import Again, Argument, Constant, Output, Signature, Size, View

_CPU = torch.device("cpu")
Env = Mapping[str, int]


class _Call:
    """A node that is ready to run, and the registers it reads, fills, and is the last to need."""

    __slots__ = ("frees", "node", "reads", "results", "run")

    def __init__(
        self,
        node: Node,
        run: Step,
        reads: tuple[int, ...],
        results: tuple[int, ...],
        frees: tuple[int, ...],
    ) -> None:
        self.node = node
        self.run = run
        self.reads = reads
        self.results = results
        self.frees = frees


class FunctionExecutor:
    """Runs a function on the CPU.

    Args:
        graph: what it computes.
        regions: the graph's regions in running order.
        kernels: backend and kernel name of each region.
        signature: how a call is one of the graph.
        constants: tensors that the code holds, by the name of the weight that stands for each.

    Raises:
        CompileError: a region has a kernel of a backend that is not ``torch``.
        GraphoptError: PyTorch lacks an operator.
    """

    def __init__(
        self,
        graph: Graph,
        regions: Sequence[Region],
        kernels: Sequence[tuple[str, str]],
        signature: Signature,
        constants: Mapping[str, Tensor],
    ) -> None:
        foreign = {backend for backend, _ in kernels} - {"torch"}
        if foreign:
            raise CompileError(
                "the function has kernels that PyTorch cannot run", got=", ".join(sorted(foreign))
            )
        self.signature = signature
        places = dict.fromkeys(place for region in regions for place in region.nodes)
        order = [graph.nodes[place] for place in places]  # several may hold a change of shape
        self._register = {value: number for number, value in enumerate(graph.values())}
        names = {value.name: self._register[value] for value in (*graph.inputs, *graph.weights)}
        self._inputs = tuple(
            (names[name], index) for name, index in signature.inputs if name in names
        )
        self._constants = tuple((names[name], tensor) for name, tensor in constants.items())
        self._outputs = tuple(self._register[value] for value in graph.outputs)
        self._calls = tuple(self._prepare(order, graph.outputs))

    def __call__(self, *arguments: Any) -> tuple[Any, ...]:
        """One call.

        Args:
            *arguments: tensors and integers, as the signature places them.

        Returns:
            What the function returns.
        """
        env = self.signature.bind(arguments)
        with torch.no_grad(), _no_autocast():
            outputs = self._own(self._compute(arguments, env), arguments, env)
            for index, output in self.signature.writes:
                arguments[index].copy_(outputs[output])
            results: list[object] = []
            for item in self.signature.returned:
                if isinstance(item, Again):
                    results.append(results[item.position])
                else:
                    results.append(_return(item, arguments, outputs, env))
            return tuple(results)

    def writes_shared(self, arguments: Sequence[Any]) -> bool:
        """Whether an argument that the function writes shares memory with another argument."""
        if not self.signature.writes:
            return False
        spans = [(index, *_span(a)) for index, a in enumerate(arguments) if isinstance(a, Tensor)]
        spans += [(-1, *_span(tensor)) for _, tensor in self._constants]
        return any(
            index != other and begin < until and start < end
            for index, begin, end in spans
            if index in dict(self.signature.writes)
            for other, start, until in spans
        )

    def _compute(self, arguments: Sequence[Any], env: Env) -> list[Tensor]:
        registers: list[Any] = [None] * len(self._register)
        for number, index in self._inputs:
            argument = arguments[index]
            registers[number] = argument if isinstance(argument, Tensor) else torch.tensor(argument)
        for number, tensor in self._constants:
            registers[number] = tensor
        for call in self._calls:
            try:
                results = call.run([registers[number] for number in call.reads], env)
            except Exception as error:
                error.add_note(f"graphopt ran {print_node(call.node)}")
                raise
            for number, result in zip(call.results, results, strict=True):
                registers[number] = result
            for number in call.frees:
                registers[number] = None
        return [registers[number] for number in self._outputs]

    def _own(self, outputs: list[Tensor], arguments: Sequence[Any], env: Env) -> list[Tensor]:
        """The outputs, each in memory that nobody else has, laid out as the signature says."""
        tensors = [argument for argument in arguments if isinstance(argument, Tensor)]
        tensors += [tensor for _, tensor in self._constants]
        taken = {_address(tensor) for tensor in tensors}
        owned = []
        for output, layout in zip(outputs, self.signature.layouts, strict=True):
            strides = None if layout is None else _sizes(layout, env)
            if _address(output) in taken or (strides and not _laid_out(output, strides)):
                output = _copied(output, strides)
            if output.numel():
                taken.add(_address(output))
            owned.append(output)
        return owned

    def _prepare(self, order: Sequence[Node], returned: Sequence[Value]) -> Iterator[_Call]:
        last = {value: node for node in order for value in (*node.inputs, *node.outputs)}
        for node in order:
            ends = [value for value in dict.fromkeys((*node.inputs, *node.outputs))]
            yield _Call(
                node,
                prepare(node, device=_CPU),
                tuple(self._register[value] for value in node.inputs),
                tuple(self._register[value] for value in node.outputs),
                tuple(
                    self._register[value]
                    for value in ends
                    if last[value] is node and value not in returned
                ),
            )


@contextmanager
def _no_autocast() -> Iterator[None]:
    """Within it nothing is cast: the graph has every cast that autocast made when it was traced."""
    if not torch.is_autocast_enabled("cpu"):
        yield
        return
    with torch.autocast("cpu", enabled=False):
        yield


def _return(
    item: Constant | Size | Argument | Output | View,
    arguments: Sequence[Any],
    outputs: Sequence[Tensor],
    env: Env,
) -> object:
    match item:
        case Constant(value=value):
            return value
        case Size(dim=dim):
            return evaluate(dim, env)
        case View(base=base, shape=shape, strides=strides, offset=offset):
            whole: Any = _return(base, arguments, outputs, env)
            start = whole.storage_offset() + evaluate(offset, env)
            return whole.as_strided(_sizes(shape, env), _sizes(strides, env), start)
        case Argument(index=index):
            return arguments[index]
    return outputs[item.index]


def _sizes(dims: Sequence[Dim], env: Env) -> tuple[int, ...]:
    return tuple(evaluate(dim, env) for dim in dims)


def _address(tensor: Tensor) -> int:
    """Where a tensor's memory begins; 0 for one without elements."""
    return tensor.untyped_storage().data_ptr()


def _span(tensor: Tensor) -> tuple[int, int]:
    storage = tensor.untyped_storage()
    return storage.data_ptr(), storage.data_ptr() + storage.nbytes()


def _laid_out(tensor: Tensor, strides: Sequence[int]) -> bool:
    """Whether a tensor has these strides wherever they matter."""
    rows = zip(tensor.shape, tensor.stride(), strides, strict=True)
    return tensor.numel() == 0 or all(size == 1 or has == wants for size, has, wants in rows)


def _copied(tensor: Tensor, strides: Sequence[int] | None) -> Tensor:
    if strides is None:
        return tensor.clone()
    return torch.empty_strided(tensor.shape, strides, dtype=tensor.dtype).copy_(tensor)

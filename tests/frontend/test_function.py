"""What functions return and write, as outputs, views, arguments and sizes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch._dynamo

from graphopt.errors import TraceError
from graphopt.frontend.function import Function
from graphopt.frontend.module import import_function
from graphopt.ir.dtype import DType
from graphopt.ir.shape import Expr, sym
from graphopt.signature import Argument, Constant, Output, Size, View
from tests.frontend.captured import imported, ops

T = sym("T")


def test_results_that_share_memory_with_arguments_are_views() -> None:
    def views(x: torch.Tensor) -> tuple[object, ...]:
        return x[1:, ::2], x.t(), x.contiguous(), x + 1, x.shape[0] * 2

    function = imported(views, torch.randn(3, 4))
    index = dict(function.signature.inputs)["x"]
    assert function.signature.returned == (
        View(Argument(index), (T - 1, 2), (4, 2), 4),
        View(Argument(index), (4, T), (1, 4), 0),
        Argument(index),
        Output(0),
        Size(T * 2),
    )
    assert function.signature.layouts == ((4, 1),)


def test_results_that_share_memory_with_each_other_are_views_of_one_output() -> None:
    def views(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        y = x * 2
        return y[0], y.view(-1), y

    function = imported(views, torch.randn(3, 4))
    first, flat, whole = function.signature.returned
    assert whole == Output(0)
    assert first == View(Output(0), (4,), (1,), 0)
    assert isinstance(flat, View)
    assert flat.base == Output(0)
    assert len(function.graph.outputs) == 1


def test_writes_are_outputs_that_arguments_take() -> None:
    def write(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        x[1:].add_(y)
        return x

    function = imported(write, torch.randn(3, 4), torch.randn(4))
    x = dict(function.signature.inputs)["x"]
    assert function.signature.writes == ((x, 0),)
    assert function.signature.layouts == (None,)
    assert function.signature.returned == (Argument(x),)


def test_tensors_of_the_code_are_constants() -> None:
    function = imported(lambda x: x + torch.tensor([1.0, 2.0]), torch.randn(3, 2))
    (constant,) = function.constants.values()
    assert constant.tolist() == [1.0, 2.0]
    assert set(function.constants) == {value.name for value in function.graph.weights}


def test_a_size_that_no_tensor_has_is_an_input_nobody_reads() -> None:
    def head(x: torch.Tensor, n: int) -> torch.Tensor:
        return x[:n] * 2

    def again(x: torch.Tensor, n: int) -> torch.Tensor:
        return head(x, n)

    x = torch.randn(9, 4)
    found: list[Function] = []
    torch._dynamo.reset()
    torch._dynamo.maybe_mark_dynamic(x, 0)

    def backend(captured: torch.fx.GraphModule, examples: object) -> Callable[..., Any]:
        found.append(import_function(captured, "test"))
        return captured.forward

    run = torch._dynamo.optimize(backend)(again)
    run(x, 2), run(x, 3)
    graph = found[-1].graph
    (size,) = (value for value in graph.inputs if value.type.dtype is DType.BOOL)
    assert isinstance(size.type.shape[0], Expr)
    assert graph.outputs[0].type.shape[0] == size.type.shape[0]
    assert size.name not in dict(found[-1].signature.inputs)


@pytest.mark.parametrize("found_out", [False, True])
def test_a_number_that_only_places_a_view_is_a_size(
    found_out: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether PyTorch found out that it is not negative depends on what it traced before."""
    if not found_out:
        monkeypatch.setattr("graphopt.frontend.function._never_negative", lambda size: False)
    x = torch.randn(9, 4)
    found: list[Function] = []

    def backend(captured: torch.fx.GraphModule, examples: object) -> Callable[..., Any]:
        found.append(import_function(captured, "test"))
        return captured.forward

    torch._dynamo.reset()
    run = torch._dynamo.optimize(backend)(lambda x, at: x[at : at + 2])
    run(x, 3), run(x, 5)
    signature = found[-1].signature
    (view,) = signature.returned
    assert isinstance(view, View)
    assert (view.shape, view.strides) == ((2, 4), (4, 1))
    assert view.offset in [sym(name) * 4 for name in signature.sizes]


def test_indices_stay_pytorchs() -> None:
    function = imported(lambda x, i: x[i], torch.randn(3, 4), torch.tensor([0, -1]))
    assert ops(function) == ["aten.index.Tensor"]


def test_constants_among_the_results() -> None:
    function = imported(lambda x: (x + 1, x.shape[1]), torch.randn(3, 4))
    assert set(function.signature.returned) <= {Output(0), Constant(4), Size(4)}


def test_memory_that_arguments_share_is_not_written() -> None:
    base = torch.randn(6, 4)
    with pytest.raises(TraceError, match="share"):
        imported(lambda x, y: x.add_(y), base[:3], base[3:])
    assert ops(imported(lambda x, y: x + y, base[:3], base[3:])) == ["add"]

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch._dynamo
from torch import nn
from torch.nn import functional

from graphopt.errors import GraphoptError, TraceError, UnsupportedError
from graphopt.frontend.module import Function, import_function, refuse_devices, refuse_training
from graphopt.ir.dtype import DType
from graphopt.ir.parser import parse_graph
from graphopt.ir.printer import print_graph
from graphopt.ir.shape import Expr, sym
from graphopt.ir.types import TensorType
from graphopt.signature import Argument, Constant, Output, Size, View

T = sym("T")


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


class Mlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(4, 8), nn.Linear(8, 4, bias=False)])
        self.register_buffer("shift", torch.randn(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        up, down = self.layers
        return down(functional.silu(up(x))) + self.shift


def test_parameters_are_weights_and_sizes_are_symbols() -> None:
    function = imported(Mlp().forward, torch.randn(3, 4))
    graph = function.graph
    assert ops(function) == ["linear", "silu", "linear", "add"]
    assert [w.name for w in graph.weights] == [
        "layers.0.weight",
        "layers.0.bias",
        "layers.1.weight",
    ]
    assert {value.name: value.type for value in graph.inputs} == {
        "x": TensorType(DType.F32, (T, 4)),
        "shift": TensorType(DType.F32, (4,)),
    }
    assert graph.outputs[0].type == TensorType(DType.F32, (T, 4))
    assert [node.loc.module for node in graph.nodes if node.loc] == ["layers.0", "", "layers.1", ""]
    assert graph.nodes[-1].loc.file == "test_module.py"
    assert print_graph(parse_graph(print_graph(graph))) == print_graph(graph)


def test_native_operators_are_the_ones_checkpoints_have() -> None:
    def block(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        y = functional.rms_norm(x, (4,), w, 1e-6)
        return functional.scaled_dot_product_attention(y[None], y[None], y[None], is_causal=True)

    function = imported(block, torch.randn(3, 4), torch.randn(4))
    assert "rms_norm" in ops(function)
    assert "aten.scaled_dot_product_attention.default" in ops(function)


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


def test_below_autocast_the_casts_are_in_the_graph() -> None:
    def cast(x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return x @ x.t()

    function = imported(cast, torch.randn(3, 4))
    assert "cast" in ops(function)
    assert function.graph.outputs[0].type == TensorType(DType.BF16, (T, T))


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


def test_indices_stay_pytorchs() -> None:
    function = imported(lambda x, i: x[i], torch.randn(3, 4), torch.tensor([0, -1]))
    assert ops(function) == ["aten.index.Tensor"]


def test_constants_among_the_results() -> None:
    function = imported(lambda x: (x + 1, x.shape[1]), torch.randn(3, 4))
    assert set(function.signature.returned) <= {Output(0), Constant(4), Size(4)}


class Statistics(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(x)


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda x: x + torch.rand(4), "random"),
        (lambda x: functional.dropout(x, 0.5, True), "random"),
        (lambda x: (torch._assert_async((x < 9).all()), x + 1)[1], "asserts"),
        (lambda x: x.view(torch.int32)[1:], "another type"),
        (lambda x: torch.view_as_complex(x.view(-1, 2, 2)) * 2, "complex"),
        (lambda x: torch._foreach_add_([x], 1), "several tensors"),
        (lambda x: torch.vmap(torch.sin)(x), "torch.func"),
        (lambda x: torch.cond(x.sum() > 0, torch.sin, torch.cos, (x,)), "plain tensor"),
        (Statistics().forward, "statistics"),
    ],
)
def test_what_a_graph_cannot_say_is_an_error(function: Callable[..., Any], reason: str) -> None:
    with pytest.raises(GraphoptError) as caught:
        imported(function, torch.rand(3, 4))
    assert reason in f"{caught.value}"


def test_memory_that_arguments_share_is_not_written() -> None:
    base = torch.randn(6, 4)
    with pytest.raises(TraceError, match="share"):
        imported(lambda x, y: x.add_(y), base[:3], base[3:])
    assert ops(imported(lambda x, y: x + y, base[:3], base[3:])) == ["add"]


def refusal(check: Callable[..., None], function: Callable[..., Any], *args: Any) -> str:
    found: list[str] = []

    def backend(captured: torch.fx.GraphModule, examples: object) -> Callable[..., Any]:
        try:
            check(captured, "test")
            found.append("")
        except UnsupportedError as error:
            found.append(str(error))
        return captured.forward

    torch._dynamo.reset()
    torch._dynamo.optimize(backend)(function)(*args)
    return found[0]


def test_training_is_what_records_gradients() -> None:
    w = torch.randn(4, 4, requires_grad=True)
    x = torch.randn(3, 4)

    def without(x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return x @ w

    def within(x: torch.Tensor) -> torch.Tensor:
        with torch.enable_grad():
            return x @ w

    assert "no_grad" in refusal(refuse_training, lambda x: x @ w, x)
    assert not refusal(refuse_training, without, x)
    assert not refusal(refuse_training, lambda x: x @ w.detach(), x)
    with torch.no_grad():
        assert not refusal(refuse_training, lambda x: x @ w, x)
        assert refusal(refuse_training, within, x)


def test_devices_other_than_the_cpu_are_refused() -> None:
    assert "meta" in refusal(refuse_devices, lambda x: x + 1, torch.randn(3, device="meta"))
    assert not refusal(refuse_devices, lambda x: x + 1, torch.randn(3))

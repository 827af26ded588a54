from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch._dynamo
from torch import nn
from torch.nn import functional

from graphopt.errors import GraphoptError, UnsupportedError
from graphopt.frontend.module import refuse_devices, refuse_training
from graphopt.ir.dtype import DType
from graphopt.ir.parser import parse_graph
from graphopt.ir.printer import print_graph
from graphopt.ir.shape import sym
from graphopt.ir.types import TensorType
from tests.frontend.captured import imported, ops

T = sym("T")


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


def test_below_autocast_the_casts_are_in_the_graph() -> None:
    def cast(x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return x @ x.t()

    function = imported(cast, torch.randn(3, 4))
    assert "cast" in ops(function)
    assert function.graph.outputs[0].type == TensorType(DType.BF16, (T, T))


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

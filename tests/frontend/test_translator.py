from __future__ import annotations

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from graphopt.errors import TraceError
from graphopt.frontend.lowering import Call, Result
from graphopt.frontend.translator import LOWERINGS, Translator, name_of_call
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph, Value
from graphopt.ir.interpreter import Interpreter
from graphopt.ir.types import TensorType


class _Plain(Translator):
    """Inputs of fixed sizes, one output."""

    def graph_of(self) -> Graph:
        for node in self.graph.nodes:
            if node.op == "placeholder":
                type_ = TensorType(DType.F32, tuple(node.meta["val"].shape))
                self.define(node, self.builder.input(node.name, type_))
        self.translate_calls()
        (out,) = (node.args[0] for node in self.graph.nodes if node.op == "output")
        result = self.read(out)
        assert isinstance(result, Value)
        return self.builder.finish([result])


class _Sceptic(_Plain):
    def accepts(self, node: torch.fx.Node, call: Call, lowered: Result) -> bool:
        return False


def traced(function, *arguments: torch.Tensor) -> torch.fx.Graph:
    return make_fx(function, tracing_mode="fake", pre_dispatch=True)(*arguments).graph


def translate(function, *arguments: torch.Tensor, kind: type[_Plain] = _Plain) -> Graph:
    graph = traced(function, *arguments)
    return kind(graph, set(graph.nodes), "test").graph_of()


def run(graph: Graph, *arguments: torch.Tensor) -> torch.Tensor:
    names = (value.name for value in graph.inputs)
    (out,) = Interpreter(graph, {}).run(dict(zip(names, arguments, strict=True)))
    return out


def test_calls_become_native_operators() -> None:
    x = torch.randn(3, 5)
    graph = translate(lambda x: torch.softmax(x * 2, -1).t(), x)
    assert [node.op for node in graph.nodes] == ["mul", "softmax", "permute"]
    torch.testing.assert_close(run(graph, x), torch.softmax(x * 2, -1).t())


def test_an_operator_nobody_lowered_stays() -> None:
    x = torch.randn(3, 5)
    graph = translate(lambda x: torch.cosh(x), x)
    assert [node.op for node in graph.nodes] == ["aten.cosh.default"]
    torch.testing.assert_close(run(graph, x), torch.cosh(x))


def test_what_is_not_accepted_runs_through_pytorch() -> None:
    x = torch.randn(3, 5)
    graph = translate(lambda x: torch.relu(x), x, kind=_Sceptic)
    assert graph.nodes[-1].op == "aten.relu.default"
    torch.testing.assert_close(run(graph, x), torch.relu(x))


def test_a_write_through_a_view_is_seen_by_all_other_names() -> None:
    def write(x: torch.Tensor) -> torch.Tensor:
        y = x * 1.5
        row, column = y[1], y[:, 0]
        row.add_(1)
        return column + y.sum()

    x = torch.randn(3, 5)
    torch.testing.assert_close(run(translate(write, x), x), write(x.clone()))


def test_chance_is_refused() -> None:
    with pytest.raises(TraceError, match="random"):
        translate(lambda x: torch.bernoulli(x), torch.rand(3))


def test_a_call_that_is_no_operator_of_pytorch_is_refused() -> None:
    graph = torch.fx.Graph()
    x = graph.placeholder("x")
    x.meta["val"] = torch.zeros(2)
    graph.output(graph.call_function(sorted, (x,)))
    with pytest.raises(TraceError, match="sorted"):
        _Plain(graph, set(graph.nodes), "test").graph_of()


def test_names_of_calls() -> None:
    graph = traced(lambda x: x + 1, torch.zeros(2))
    assert [name_of_call(n) for n in graph.nodes if n.op == "call_function"] == ["aten.add.Tensor"]
    assert all(name.startswith(("aten.", "graphopt.")) for name in LOWERINGS)

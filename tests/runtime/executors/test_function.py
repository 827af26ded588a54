from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from graphopt.errors import CompileError
from graphopt.ir.builder import GraphBuilder
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph
from graphopt.ir.shape import sym
from graphopt.ir.types import TensorType
from graphopt.region import make_region
from graphopt.runtime.executors.function import FunctionExecutor
from graphopt.signature import Again, Argument, Constant, Output, Returned, Signature, Size, View

T = sym("T")
ROWS = TensorType(DType.F32, (T, 4))
SIZES = {"T": (0, 0)}


def executor(graph: Graph, signature: Signature, **constants: torch.Tensor) -> FunctionExecutor:
    regions = [make_region(graph, [position]) for position in range(len(graph.nodes))]
    return FunctionExecutor(
        graph, regions, [("torch", "kernel")] * len(regions), signature, constants
    )


def doubled(returned: tuple[Returned, ...], layout: tuple[int, ...] = (4, 1)) -> FunctionExecutor:
    b = GraphBuilder("doubled")
    x = b.input("x", ROWS)
    graph = b.finish([b.one("add", [x, x])])
    return executor(graph, Signature((("x", 0),), SIZES, (layout,), (), returned))


def test_every_kind_of_result() -> None:
    half = View(Output(0), (T, 2), (4, 1), 2)
    tail = View(Argument(0), (T - 1, 4), (4, 1), 4)
    run = doubled((Output(0), half, tail, Argument(0), Size(T * 4), Constant(None), Again(2)))
    for rows in (2, 3, 7):
        x = torch.randn(rows, 4)
        y, right, rest, same, count, nothing, again = run(x)
        torch.testing.assert_close(y, x * 2)
        torch.testing.assert_close(right, (x * 2)[:, 2:])
        assert right.data_ptr() == y.data_ptr() + 8
        assert rest.data_ptr() == x.data_ptr() + 16
        assert rest.shape == (rows - 1, 4)
        assert same is x
        assert (count, nothing) == (rows * 4, None)
        assert again is rest


def test_a_view_begins_where_its_argument_does() -> None:
    run = doubled((View(Argument(0), (T, 2), (4, 1), 1),))
    base = torch.randn(6, 4)
    (view,) = run(base[2:])
    assert torch.equal(view, base[2:, 1:3])
    assert view.data_ptr() == base.data_ptr() + 4 * (2 * 4 + 1)


def test_outputs_have_the_layout_they_are_asked_for() -> None:
    (y,) = doubled((Output(0),), layout=(1, 8))(torch.ones(5, 4))
    assert y.stride() == (1, 8)
    assert torch.equal(y, torch.full((5, 4), 2.0))


def test_arguments_are_written_when_everything_is_computed() -> None:
    b = GraphBuilder("swapped")
    x, y = b.input("x", ROWS), b.input("y", ROWS)
    before = b.one("reshape", [x], {"shape": (T * 4,)})
    graph = b.finish([y, x, before])
    inputs = (("x", 0), ("y", 1))
    signature = Signature(
        inputs, SIZES, (None, None, (1,)), ((0, 0), (1, 1)), (Output(2), Argument(0))
    )
    run = executor(graph, signature)
    x, y = torch.randn(3, 4), torch.randn(3, 4)
    was = x.clone(), y.clone()
    seen, returned = run(x, y)
    assert torch.equal(x, was[1])
    assert torch.equal(y, was[0])
    assert torch.equal(seen, was[0].flatten())
    assert returned is x


def test_outputs_share_memory_with_nobody() -> None:
    b = GraphBuilder("same")
    x = b.input("x", ROWS)
    w = b.weight("w", TensorType(DType.F32, (4,)))
    y = b.one("relu", [x])
    graph = b.finish([x, y, y, w])
    layouts = ((4, 1), (4, 1), (4, 1), (1,))
    returned = tuple(Output(index) for index in range(4))
    w = torch.randn(4)
    run = executor(graph, Signature((("x", 0),), SIZES, layouts, (), returned), w=w)
    x = torch.randn(3, 4)
    results = run(x)
    assert len({tensor.data_ptr() for tensor in (x, w, *results)}) == 6
    assert torch.equal(results[0], x)
    assert torch.equal(results[3], w)


def test_numbers_are_arguments_too() -> None:
    b = GraphBuilder("scaled")
    x, n = b.input("x", ROWS), b.input("n", TensorType(DType.I64, ()))
    factor = b.one("cast", [n], {"dtype": DType.F32})
    graph = b.finish([b.one("mul", [x, factor])])
    signature = Signature((("x", 0), ("n", 1)), SIZES, ((4, 1),), (), (Output(0),))
    x = torch.randn(3, 4)
    (y,) = executor(graph, signature)(x, -5)
    torch.testing.assert_close(y, x * -5)


def test_written_memory_that_is_shared_is_told() -> None:
    b = GraphBuilder("written")
    x, y = b.input("x", ROWS), b.input("y", ROWS)
    graph = b.finish([b.one("add", [x, y])])
    run = executor(graph, Signature((("x", 0), ("y", 1)), SIZES, (None,), ((0, 0),), ()))
    base = torch.randn(6, 4)
    assert not run.writes_shared([base, torch.randn(6, 4)])
    assert run.writes_shared([base, base])
    assert run.writes_shared([base[:3], base[3:]])  # one memory, though no element is shared
    array = base.numpy()
    assert run.writes_shared([torch.from_numpy(array[:4]), torch.from_numpy(array[2:])])
    assert not doubled((Output(0),)).writes_shared([base, base])


def test_nothing_is_recorded_and_nothing_is_cast() -> None:
    b = GraphBuilder("product")
    x, w = b.input("x", ROWS), b.weight("w", TensorType(DType.F32, (4, 4)))
    graph = b.finish([b.one("linear", [x, w])])
    run = executor(graph, Signature((("x", 0), ("w", 1)), SIZES, ((4, 1),), (), (Output(0),)))
    with torch.autocast("cpu"):
        (y,) = run(torch.randn(3, 4), torch.randn(4, 4, requires_grad=True))
    assert y.dtype is torch.float32
    assert not y.requires_grad


def test_errors_are_pytorchs_and_name_the_node() -> None:
    b = GraphBuilder("picked")
    x, i = b.input("x", ROWS), b.input("i", TensorType(DType.I64, (2,)))
    graph = b.finish([b.one("index_select", [x, i], {"dim": 0})])
    run = executor(graph, Signature((("x", 0), ("i", 1)), SIZES, ((4, 1),), (), (Output(0),)))
    with pytest.raises(IndexError) as caught:
        run(torch.randn(3, 4), torch.tensor([0, 3]))
    assert "index_select" in "".join(caught.value.__notes__)


def test_kernels_of_another_backend_are_refused() -> None:
    b = GraphBuilder("doubled")
    x = b.input("x", ROWS)
    graph = b.finish([b.one("add", [x, x])])
    signature = Signature((("x", 0),), SIZES, ((4, 1),), (), (Output(0),))
    with pytest.raises(CompileError, match="PyTorch cannot run"):
        FunctionExecutor(graph, [make_region(graph, [0])], [("cpp", "k")], signature, {})


def test_threads_share_an_executor() -> None:
    run = doubled((Output(0),))
    inputs = [torch.randn(2 + index % 5, 4) for index in range(64)]
    with ThreadPoolExecutor(4) as pool:
        for x, (y,) in zip(inputs, pool.map(run, inputs), strict=True):
            assert torch.equal(y, x + x)

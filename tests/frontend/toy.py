"""Small functions of a packed batch, exported, imported, and run beside PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from graphopt.frontend.export import PREFIX, Exported
from graphopt.frontend.importer import Imported, import_program
from graphopt.ir.graph import Graph
from graphopt.ir.interpreter import Interpreter
from graphopt.ir.reference import PagedState
from graphopt.ir.verify import verify

WIDTH = 6
Function = Callable[["Toy", Tensor, Tensor], Tensor]


def calling(name: str, function: Callable[..., Tensor]) -> Function:
    """A function that gets PyTorch's operator ``aten.<name>`` in front of its arguments."""
    return lambda m, x, p: function(getattr(torch.ops.aten, name), m, x, p)


class Toy(nn.Module):
    """Gives each token a row of numbers, and applies functions to all rows."""

    def __init__(self, functions: Mapping[str, Function]) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.table = nn.Parameter(torch.randn(11, WIDTH, generator=generator))
        self.weight = nn.Parameter(torch.randn(5, WIDTH, generator=generator))
        self.bias = nn.Parameter(torch.randn(5, generator=generator))
        self.scale = nn.Parameter(torch.rand(WIDTH, generator=generator) + 0.5)
        self.register_buffer("angles", torch.rand(3, generator=generator))
        self.functions = dict(functions)

    def forward(self, token_ids: Tensor, positions: Tensor, rows: Tensor) -> Tensor:
        x = nn.functional.embedding(token_ids, self.table)
        outs = []
        for function in self.functions.values():
            out = function(self, x, positions)
            out = torch.view_as_real(out) if out.is_complex() else out
            outs.append(out.to(torch.float32).reshape(token_ids.shape[0], -1))
        return torch.cat(outs, dim=1).index_select(0, rows)


class _Holder(nn.Module):
    def __init__(self, toy: Toy) -> None:
        super().__init__()
        setattr(self, PREFIX, toy)

    def forward(self, token_ids: Tensor, positions: Tensor, rows: Tensor) -> Tensor:
        return getattr(self, PREFIX)(token_ids, positions, rows)


def exported(toy: Toy) -> torch.export.ExportedProgram:
    """The toy as PyTorch's operators."""
    dynamic = {0: torch.export.Dim.DYNAMIC}
    example = tuple(torch.zeros(n, dtype=torch.int64) for n in (37, 37, 23))
    with torch.no_grad():
        return torch.export.export(
            _Holder(toy), example, dynamic_shapes=(dynamic, dynamic, dynamic), strict=False
        )


def imported(toy: Toy) -> Imported:
    """The toy as a graph."""
    return import_program(Exported(exported(toy), dict(toy.named_buffers())), "toy")


def never_called(functions: Mapping[str, Function], table: Iterable[str]) -> set[str]:
    """The operators of a table of lowerings that no function calls."""
    called = {str(node.target) for node in exported(Toy(functions)).graph.nodes}
    called |= {name.rpartition(".")[0] for name in called}
    return set(table) - called


def run(graph: Graph, weights: Mapping[str, Tensor], ids: Tensor, rows: Tensor) -> Tensor:
    """The graph on one sequence that is all there is."""
    count = len(ids)
    inputs: dict[str, Any] = {
        "token_ids": ids,
        "positions": torch.arange(count),
        "rows": rows,
        "slots": torch.arange(count),
        "starts": torch.tensor([0, count], dtype=torch.int32),
        "lengths": torch.tensor([count], dtype=torch.int32),
        "tables": torch.tensor([[0]], dtype=torch.int32),
        "kv": PagedState.allocate(graph.input("kv").type, 1, max(count, 1)),
    }
    (out,) = Interpreter(graph, weights).run(inputs)
    return out


def check(functions: Mapping[str, Function], tolerance: float = 1e-6) -> Graph:
    """Demands that every function gives what PyTorch gives, for one token and for several."""
    toy = Toy(functions)
    made = imported(toy)
    verify(made.graph)
    weights = {**made.constants, **{name: p.detach() for name, p in toy.named_parameters()}}
    for ids in (torch.tensor([4]), torch.tensor([1, 0, 9, 4, 4, 7, 10])):
        rows = torch.arange(len(ids)).flip(0)
        got = run(made.graph, weights, ids, rows)
        with torch.no_grad():
            wanted = toy(ids, torch.arange(len(ids)), rows)
        start = 0
        for name, function in functions.items():
            width = toy_width(toy, function)
            ours, theirs = got[:, start : start + width], wanted[:, start : start + width]
            assert torch.allclose(ours, theirs, rtol=tolerance, atol=tolerance), name
            start += width
        assert start == wanted.shape[1]
    return made.graph


def toy_width(toy: Toy, function: Function) -> int:
    """Numbers per token that a function gives."""
    with torch.no_grad():
        out = function(toy, toy.table[:2].clone(), torch.arange(2))
    return (2 if out.is_complex() else 1) * out.numel() // 2

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.fx import Node

from graphopt.frontend.live import is_check, live_nodes, storage_of, writes_in_place


def exported(function: Callable[[Tensor], Tensor]) -> list[Node]:
    class Net(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return function(x)

    with torch.no_grad():
        return list(torch.export.export(Net(), (torch.ones(2, 4),), strict=False).graph.nodes)


def named(nodes: list[Node], part: str) -> list[Node]:
    return [node for node in nodes if part in str(node.target)]


def test_a_write_is_live_if_what_it_writes_is_read_later() -> None:
    def function(x: Tensor) -> Tensor:
        read, lost = x * 2, x * 3
        read[:, 1].add_(1.0)
        lost.add_(1.0)
        return read + 1

    nodes = exported(function)
    live = live_nodes(nodes[0].graph)
    writes = [node for node in nodes if writes_in_place(node)]
    assert len(writes) == 2
    assert [node in live for node in writes] == [True, False]


def test_views_share_their_storage() -> None:
    nodes = exported(lambda x: (x * 2).view(4, 2).transpose(0, 1) + 1)
    product, view = named(nodes, "mul")[0], named(nodes, "view")[0]
    assert storage_of(view) == storage_of(product)
    assert storage_of(named(nodes, "add")[0]) != storage_of(product)


def test_what_writes_its_first_argument_is_known_by_its_schema() -> None:
    def function(x: Tensor) -> Tensor:
        chosen = x > 0
        chosen &= x < 1
        return chosen.clone().logical_not_() & (x > 2)

    writes = [str(node.target) for node in exported(function) if writes_in_place(node)]
    assert writes == ["aten.__iand__.Tensor", "aten.logical_not_.default"]


def test_checks_are_never_live() -> None:
    nodes = exported(lambda x: x.to(torch.float64) * 2)
    checks = [node for node in nodes if is_check(node)]
    assert checks
    assert not set(checks) & live_nodes(nodes[0].graph)

"""The pointers that a step's kernel takes."""

from __future__ import annotations

import pytest

from graphopt.errors import ArtifactError
from graphopt.ir.dtype import DType
from graphopt.ir.shape import sym
from graphopt.plan import Step
from graphopt.plan_arguments import Argument, Kind, arguments_of, layer_of

from .runtime.tiny_decoder import decoder


def step(*nodes: int, workspace: bool = False) -> Step:
    size = 8 * sym("T") if workspace else 0
    return Step("cpp", "k", nodes, (3, "@w", "%kv", 4), (5, 6), workspace=size)


def test_operands_then_results_then_the_workspace() -> None:
    found = arguments_of(step(0, workspace=True), layer=2)
    assert found == (
        Argument(Kind.SLOT, 3),
        Argument(Kind.WEIGHT, name="w"),
        Argument(Kind.KEYS, 2),
        Argument(Kind.VALUES, 2),
        Argument(Kind.SLOT, 4),
        Argument(Kind.SLOT, 5),
        Argument(Kind.SLOT, 6),
        Argument(Kind.WORKSPACE),
    )
    assert arguments_of(step(0), layer=2) == found[:-1]


def test_the_layer_is_the_one_of_the_nodes() -> None:
    graph = decoder(DType.F32)
    writes = [place for place, node in enumerate(graph.nodes) if node.op == "kv_write"]
    assert [layer_of(graph, step(place)) for place in writes] == [0, 1]
    assert layer_of(graph, step(0)) == 0
    with pytest.raises(ArtifactError, match="several layers"):
        layer_of(graph, step(*writes))

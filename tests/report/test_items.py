"""Boxes are nodes, or the regions of a plan's steps."""

from __future__ import annotations

import pytest

from graphopt.ir import ops
from graphopt.report.items import FAMILIES, family_of, node_items, step_items

from .models import two_layers


def test_a_node_is_a_box() -> None:
    graph = two_layers().graph
    items = node_items(graph)
    assert [item.nodes for item in items] == [(node,) for node in graph.nodes]
    norm = items[1]
    assert (norm.name, norm.family, norm.scope) == ("rms_norm", "row", "model.layers.0.norm")
    assert norm.inputs == graph.nodes[1].inputs
    assert norm.backend == ""


def test_a_step_is_a_box_with_its_border() -> None:
    source = two_layers()
    items = step_items(source.graph, source.plan)
    attention = next(item for item in items if item.name == "reshape+attention")
    assert [node.op for node in attention.nodes] == ["reshape", "attention"]
    assert [value.name for value in attention.inputs] == ["2", "4", "starts", "lengths", "tables"]
    assert attention.outputs == attention.nodes[1].outputs
    assert (attention.family, attention.backend) == ("attention", "torch")


@pytest.mark.parametrize(
    ("op", "family"),
    [
        ("linear", "linear"),
        ("reshape", "view"),
        ("add", "pointwise"),
        ("softmax", "row"),
        ("concat", "gather"),
        ("kv_write", "state"),
        ("aten.fft.default", "other"),
    ],
)
def test_families(op: str, family: str) -> None:
    assert family_of(op) == family


def test_every_operator_has_a_family() -> None:
    assert {family_of(op) for op in ops.OPS} <= set(FAMILIES)

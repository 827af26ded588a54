"""How often rotations and routers are raised in each family: a miss is a failure here.

Each attention layer rotates its queries and its keys, each mixture of experts has a router, and all
layers of a kind share one table of cosines and one of sines.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import pytest

from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph
from graphopt.passes.constants import constant_values

from .numbers import reasons, rewritten
from .raising import traced
from .rotated import ROWS, passes

_PARTS = "the parts are not cut from one tensor"  # pairs are sorted before they turn
_EXPERTS = "moe_experts is not told its experts by a router that moe_router can say"
# What is refused, or left over, and why that is right. No other family leaves anything.
REFUSED: Mapping[str, str] = {
    "axk1": _PARTS,
    "deepseek_v3": _PARTS,
    "glm4_moe_lite": _PARTS,
    "youtu": _PARTS,
    "phimoe": _EXPERTS,  # two sparse mixers, each with a threshold of its own
    # All experts see all tokens, scaled by a sigmoid that is 0 for those that are not chosen.
    "llama4": "topk is part of no router that moe_router can say",
    "llama4_text": "topk is part of no router that moe_router can say",
}
FAST = ("llama", "cohere", "deepseek_v3")


def expected(family: str, graph: Graph) -> dict[str, int]:
    row, ops = ROWS[family], Counter(node.op for node in graph.nodes)
    rotated = ops["attention"] if row.rotated is None else row.rotated
    return {
        "rope": 2 * rotated,
        "cos": row.tables,
        "sin": row.tables,
        "moe_router": row.routers,
        "topk": row.topk,
        "permute": row.moves,
    }


def counts_of(graph: Graph) -> dict[str, int]:
    constants = constant_values(graph)
    found = Counter(node.op for node in graph.nodes)
    found["permute"] = sum(node.inputs[0] not in constants for node in graph.nodes_named("permute"))
    return {name: found[name] for name in ("rope", "cos", "sin", "moe_router", "topk", "permute")}


@pytest.mark.parametrize(
    "family",
    [*FAST, *(pytest.param(name, marks=pytest.mark.full) for name in ROWS if name not in FAST)],
)
def test_every_family_gives_its_matches_and_leaves_nothing(family: str) -> None:
    row = ROWS[family]
    graph, entries = rewritten(traced(family, DType.BF16).graph, *passes())
    assert counts_of(graph) == expected(family, graph)
    ropes = graph.nodes_named("rope")
    assert all(node.attrs["interleaved"] is row.interleaved for node in ropes)
    assert {node.attrs["offset"] for node in ropes} <= {0, row.offset}
    assert len({node.inputs[1:] for node in ropes}) == (row.tables or min(len(ropes) // 2, 2))
    left = {reason for reason in reasons(entries, "product-of-one-term").split("; ") if reason}
    assert left == ({REFUSED[family]} if family in REFUSED else set())

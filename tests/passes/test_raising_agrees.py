"""Raised families still compute what transformers computes, in float32.

The sweep in tests/models does this with all families and all passes.
"""

from __future__ import annotations

import warnings
from dataclasses import replace

import pytest

from graphopt.frontend.twin import TOLERANCE, TwinDisagreesError, compare
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Node
from tests.models.families import small_config

from .numbers import rewritten
from .raising import raised, raising, traced


def error_of(family: str, *, seed: int = 1) -> float:
    decoder = traced(family, DType.F32)
    graph, _ = raised(family, DType.F32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return compare(small_config(family), replace(decoder, graph=graph), seed=seed)


@pytest.mark.parametrize("family", ["llama", "cohere"])
def test_raised_families_agree(family: str) -> None:
    assert error_of(family) <= TOLERANCE


def test_a_rule_that_is_wrong_would_show() -> None:
    decoder = traced("llama", DType.F32)
    graph, _ = rewritten(decoder.graph, *raising(decoder))

    def spoiled(node: Node) -> Node:
        if node.op != "rms_norm":
            return node
        return replace(node, attrs={**node.attrs, "eps": 0.01})

    wrong = replace(graph, nodes=tuple(map(spoiled, graph.nodes)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(TwinDisagreesError):
            compare(small_config("llama"), replace(decoder, graph=wrong))

"""The comparison must notice: each graph is spoilt in one place, and must be found out."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
import torch

from graphopt.ir.builder import Rewriter
from graphopt.ir.graph import Attr, Graph, Node
from tests.models.harness import case, mixed_step_error

FOUND = 1e-4  # ten times the tolerance, at the very least


def spoil(graph: Graph, change: Callable[[Node], tuple[int, Mapping[str, Attr]] | None]) -> Graph:
    """The graph with some nodes' attributes changed, and their inputs cut to a number."""
    rewriter = Rewriter(graph)
    for node in graph.nodes:
        changed = change(node)
        if changed is None:
            rewriter.copy(node)
            continue
        count, attrs = changed
        new = rewriter.node(node.op, node.inputs[:count], {**node.attrs, **attrs})
        for old, value in zip(node.outputs, new, strict=True):
            rewriter.replace(old, value)
    return rewriter.finish()


def attentions(**attrs: Attr) -> Callable[[Node], tuple[int, Mapping[str, Attr]] | None]:
    return lambda node: (len(node.inputs), attrs) if node.op == "attention" else None


def spoilt_error(name: str, graph: Graph) -> float:
    found = case(name)
    return mixed_step_error(graph, found.weights, found.reference)


@pytest.mark.parametrize("window", [7, 9, 0])
def test_a_window_off_by_one_shows(window: int) -> None:
    graph = case("gemma3_text").decoder.graph

    def change(node: Node) -> tuple[int, Mapping[str, Attr]] | None:
        if node.op == "attention" and node.attrs["window"] == 8:
            return len(node.inputs), {"window": window}
        return None

    assert spoilt_error("gemma3_text", spoil(graph, change)) > FOUND


def test_a_window_where_there_is_none_shows() -> None:
    graph = case("llama").decoder.graph
    assert spoilt_error("llama", spoil(graph, attentions(window=32))) > FOUND


@pytest.mark.parametrize("factor", [0.99, 1.01])
def test_another_scale_shows(factor: float) -> None:
    graph = case("llama").decoder.graph
    assert spoilt_error("llama", spoil(graph, attentions(scale=0.25 * factor))) > FOUND


@pytest.mark.slow
def test_a_lost_softcap_shows() -> None:
    graph = case("gemma2").decoder.graph
    assert spoilt_error("gemma2", spoil(graph, attentions(softcap=0.0))) > FOUND


def test_lost_sinks_show() -> None:
    graph = case("gpt_oss").decoder.graph

    def change(node: Node) -> tuple[int, Mapping[str, Attr]] | None:
        return (len(node.inputs) - 1, {"sinks": False}) if node.op == "attention" else None

    assert spoilt_error("gpt_oss", spoil(graph, change)) > FOUND


@pytest.mark.slow
def test_lost_position_bias_shows() -> None:
    graph = case("bloom").decoder.graph

    def change(node: Node) -> tuple[int, Mapping[str, Attr]] | None:
        return (len(node.inputs) - 1, {"alibi": False}) if node.op == "attention" else None

    assert spoilt_error("bloom", spoil(graph, change)) > FOUND


def test_another_rotary_base_shows() -> None:
    found = case("llama")
    name = "model.rotary_emb.inv_freq"
    exponents = torch.arange(0, 16, 2).float() / 16
    weights = {**found.weights, name: 10100.0**-exponents}
    graph = found.decoder.graph
    assert torch.allclose(found.weights[name], 10000.0**-exponents)
    assert mixed_step_error(graph, weights, found.reference) > FOUND


@pytest.mark.slow
def test_the_other_longrope_factors_show() -> None:
    found = case("phi3_longrope")
    name = "model.rotary_emb.inv_freq"
    longer = found.weights[name] * torch.tensor([1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7])
    weights = {**found.weights, name: longer / torch.arange(2.0, 6.0, 0.5)}
    assert mixed_step_error(found.decoder.graph, weights, found.reference) > FOUND


def test_swapped_layers_of_memory_show() -> None:
    graph = case("llama").decoder.graph

    def change(node: Node) -> tuple[int, Mapping[str, Attr]] | None:
        if node.op == "kv_write" and node.attrs["layer"] == 1:
            return len(node.inputs), {"layer": 2}
        return None

    spoilt = spoil(graph, change)
    assert not spoilt_error("llama", spoilt) <= FOUND  # memory nobody wrote is NaN

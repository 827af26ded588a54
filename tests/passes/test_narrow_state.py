"""Keys and values in fewer bits: the state's type changes, and what is read is what was rounded."""

from __future__ import annotations

import pytest
import torch

from graphopt.errors import UsageError
from graphopt.frontend.scenario import make_tracks, play
from graphopt.frontend.twin import reference_model, weights_of
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph
from graphopt.ir.types import StateType
from graphopt.passes.narrow_state import NarrowState
from graphopt.passes.pipeline import decoder_pipeline

from .models import small_config, traced
from .numbers import operators, rewritten


def state_of(graph: Graph) -> StateType:
    (found,) = (value.type for value in graph.inputs if isinstance(value.type, StateType))
    return found


@pytest.mark.parametrize(("kind", "dtype"), [("fp8", DType.F8E4M3), ("fp8-e5m2", DType.F8E5M2)])
def test_only_the_state_changes(kind: str, dtype: DType) -> None:
    graph = traced("gemma3_text").graph
    after, entries = rewritten(graph, NarrowState(kind))
    before, now = state_of(graph), state_of(after)
    assert {layer.dtype for layer in now.layers} == {dtype}
    assert [layer.window for layer in now.layers] == [layer.window for layer in before.layers]
    assert now.bytes_per_token * 2 == before.bytes_per_token
    assert operators(after) == operators(graph)
    assert str(now.bytes_per_token) in entries[0].reason
    again, _ = rewritten(after, NarrowState(kind))
    assert again is after


@pytest.mark.parametrize(("kind", "least", "most"), [("fp8", 1e-4, 0.1), ("fp8-e5m2", 1e-3, 0.2)])
def test_numbers_change_by_rounding_only(kind: str, least: float, most: float) -> None:
    decoder = traced("llama", DType.F32)
    narrow, _ = rewritten(decoder.graph, NarrowState(kind))
    weights = weights_of(reference_model(small_config("llama"), 0, 0.6), decoder)
    found = []
    for graph in (decoder.graph, narrow):
        tracks = make_tracks(100, 128, 3)
        play(graph, weights, tracks)
        found.append(torch.stack([row for track in tracks for _, row in track.rows]))
    error = float((found[1] - found[0]).norm() / found[0].norm())
    assert least < error < most


def test_one_asks_by_name() -> None:
    with pytest.raises(UsageError, match="no such type"):
        NarrowState("int8")
    assert "narrow-state" not in [one.name for one in decoder_pipeline()]
    assert "narrow-state" in [one.name for one in decoder_pipeline(kv_dtype="fp8")]

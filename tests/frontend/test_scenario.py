from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch

from graphopt.frontend import scenario
from graphopt.frontend.hf import trace_decoder
from graphopt.frontend.scenario import BLOCK, WHOLE_LENGTHS, make_tracks, play, sees_all
from graphopt.frontend.shrink import shrink
from graphopt.ir.dtype import DType
from tests.models.harness import case, config_of


class Recorder:
    """An interpreter that notes the steps and answers with the tokens' numbers."""

    def __init__(self, graph: object, weights: object) -> None:
        self.steps: list[dict[str, Any]] = []
        Recorder.last = self

    def run(self, inputs: dict[str, Any]) -> tuple[torch.Tensor]:
        self.steps.append(inputs)
        return (inputs["token_ids"][inputs["rows"]].float()[:, None],)


@pytest.fixture(params=[256, 64, 48, 15, 3])
def played(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(scenario, "Interpreter", Recorder)
    tracks = make_tracks(50, request.param, seed=2, special=[0, 7])
    play(case("llama").decoder.graph, {}, tracks)
    return tracks, Recorder.last.steps


def test_every_sequence_comes_to_its_end_and_gets_its_own_logits(played) -> None:
    tracks, _ = played
    for track in tracks:
        assert track.done == len(track.tokens)
        assert track.rows
        for position, logits in track.rows:
            assert int(logits[0]) == track.tokens[position]


def test_steps_are_well_formed(played) -> None:
    _, steps = played
    for step in steps:
        count, starts, lengths = len(step["token_ids"]), step["starts"], step["lengths"]
        assert len(step["positions"]) == len(step["slots"]) == count
        assert len(starts) == len(lengths) + 1 == len(step["tables"]) + 1
        for index, length in enumerate(lengths):
            rows = range(starts[index], starts[index + 1])
            assert step["positions"][rows[-1]] == length - 1
            for row in rows:
                position = int(step["positions"][row])
                block = step["tables"][index][position // BLOCK]
                assert step["slots"][row] == block * BLOCK + position % BLOCK
        assert (step["slots"][starts[-1] :] == -1).all()


def test_the_hard_cases_are_among_the_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scenario, "Interpreter", Recorder)
    tracks = make_tracks(50, 256, seed=2)
    play(case("llama").decoder.graph, {}, tracks)
    steps = Recorder.last.steps
    counts = [torch.diff(step["starts"]).tolist() for step in steps]
    assert any(len(step["token_ids"]) == 1 for step in steps)  # T = 1
    assert any(len(step["rows"]) == 0 for step in steps)  # R = 0
    assert any(len(step["rows"]) == 1 for step in steps)
    assert any((step["slots"] == -1).any() for step in steps)  # padding
    assert any(1 in c and max(c) > 3 for c in counts)  # decodes beside a chunk
    assert any(max(step["lengths"]) > 5 * min(step["lengths"]) for step in steps)  # far neighbour
    assert not all(block == sorted(block) for block in (track.blocks for track in tracks))


def test_special_tokens_are_in_every_sequence() -> None:
    for track in make_tracks(50, 256, seed=4, special=[0, 7]):
        assert {0, 7} & set(track.tokens)


@pytest.mark.parametrize("longest", [256, 48, 3])
def test_sequences_whose_tokens_see_all_come_whole(
    longest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = trace_decoder(shrink(config_of("bert")), DType.F32, "embed").graph
    assert sees_all(graph)
    assert not sees_all(case("llama").decoder.graph)
    monkeypatch.setattr(scenario, "Interpreter", Recorder)
    tracks = make_tracks(50, longest, seed=2, special=[7], lengths=WHOLE_LENGTHS, without=7)
    play(graph, {}, tracks)
    assert not any(7 in track.tokens for track in tracks)
    for track in tracks:
        assert [position for position, _ in sorted(track.rows, key=lambda row: row[0])] == list(
            range(len(track.tokens))
        )
    steps = Recorder.last.steps
    sizes = []
    for step in steps:
        starts, lengths = step["starts"].tolist(), step["lengths"].tolist()
        assert lengths == [b - a for a, b in pairwise(starts)]
        reaches = [length for length in lengths for _ in range(length)]
        padding = len(step["token_ids"]) - len(reaches)
        assert step["reaches"].tolist() == reaches + [0] * padding
        sizes.append((len(lengths), padding))
    assert any(count > 1 for count, _ in sizes)
    assert any(padding for _, padding in sizes)
    assert min(len(step["token_ids"]) for step in steps) == 1

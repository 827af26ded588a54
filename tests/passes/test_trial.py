"""Trials give the same numbers again, within what the graph can take, on ragged steps."""

from __future__ import annotations

import json

import pytest
import torch

from graphopt.ir.builder import GraphBuilder
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph
from graphopt.ir.interpreter import Interpreter
from graphopt.ir.shape import sym
from graphopt.ir.types import TensorType
from graphopt.passes.trial import BLOCK, Spread, Trial
from tests.passes import wrong


def test_the_steps_are_ragged_and_prime() -> None:
    steps = list(Trial().steps(wrong.decoder(positions=1000)))
    assert [len(step["token_ids"]) for step in steps] == [321, 17, 1]
    mixed = steps[1]
    assert mixed["slots"].tolist().count(-1) == 3
    assert mixed["starts"].diff().tolist() == [11, 1, 1, 1]  # a chunk beside decodes
    assert mixed["lengths"].tolist() == [16, 24, 1, 294]
    assert mixed["positions"].max() == 293
    assert steps[0]["kv"] is steps[2]["kv"]


def test_tokens_lie_where_the_tables_say() -> None:
    written: dict[int, int] = {}
    for step in Trial().steps(wrong.decoder(positions=1000)):
        for row, (start, stop) in enumerate(zip(step["starts"], step["starts"][1:], strict=False)):
            first = int(step["lengths"][row]) - int(stop - start)
            for i in range(int(start), int(stop)):
                position = first + i - int(start)
                block = int(step["tables"][row, position // BLOCK])
                assert step["slots"][i] == block * BLOCK + position % BLOCK
                assert step["positions"][i] == position
                assert int(step["slots"][i]) not in written
                written[int(step["slots"][i])] = i
    assert len(written) == 293 + 23 + 5 + 11 + 1 + 1 + 1 + 1


@pytest.mark.parametrize("positions", [9, 10, 33, 64])
def test_a_short_table_of_positions_is_not_left(positions: int) -> None:
    graph = wrong.decoder(positions=positions)
    interpreter = Interpreter(graph, Trial().weights(graph, {}))
    for step in Trial().steps(graph):
        assert step["positions"].max() < positions
        (logits,) = interpreter.run(step)
        assert logits.isfinite().all()


def test_the_same_trial_gives_the_same_numbers() -> None:
    graph = wrong.decoder(DType.BF16)
    for left, right in zip(Trial(3).steps(graph), Trial(3).steps(graph), strict=True):
        for name in left.keys() - {"kv"}:
            assert torch.equal(left[name], right[name])
        assert torch.equal(left["kv"].keys[0], right["kv"].keys[0])
    one, same, other = (Trial(seed).weights(graph, {})["embed"] for seed in (3, 3, 4))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert one.dtype == torch.bfloat16


def test_weights_depend_on_their_name_alone() -> None:
    large, small = wrong.decoder(), wrong.decoder(positions=70)
    assert torch.equal(Trial().weights(large, {})["head"], Trial().weights(small, {})["head"])
    known = {"head": torch.zeros(wrong.VOCAB, wrong.HIDDEN)}
    assert Trial().weights(large, known)["head"] is known["head"]


def test_gain_makes_weights_small() -> None:
    graph = wrong.decoder()
    loud, quiet = Trial().weights(graph, {}), Trial(gain=0.25).weights(graph, {})
    assert torch.equal(quiet["head"], 0.5 * loud["head"])
    assert torch.equal(quiet["embed"], 0.25 * loud["embed"])
    assert torch.equal(quiet["0.norm"], loud["0.norm"])


def test_an_uneven_trial_makes_some_weights_small() -> None:
    graph = wrong.decoder()
    loud = Trial(3).weights(graph, {})
    mixed = Trial(3, 0.25, is_uneven=True).weights(graph, {})
    ratios = {name: float(mixed[name].abs().mean() / loud[name].abs().mean()) for name in loud}
    small = [name for name, ratio in ratios.items() if ratio == pytest.approx(0.25, rel=1e-3)]
    same = [name for name, ratio in ratios.items() if ratio == pytest.approx(1.0, rel=1e-3)]
    assert len(small) + len(same) == len(ratios)
    assert min(len(small), len(same)) > len(ratios) // 4


def any_graph() -> Graph:
    """A table looked up by ids that are counted on first; sizes that no engine knows."""
    b = GraphBuilder("g")
    ids = b.input("ids", TensorType(DType.I64, (sym("N"),)))
    x = b.input("x", TensorType(DType.F16, (sym("N"), sym("M"))))
    mask = b.input("mask", TensorType(DType.BOOL, (sym("N"), sym("M"))))
    table = b.weight("table", TensorType(DType.F16, (5, 3)))
    rows = b.one("embed", [b.one("abs", [ids]), table])
    return b.finish([rows, b.one("where", [mask, x, b.one("neg", [x])])])


def test_inputs_of_any_graph() -> None:
    graph = any_graph()
    interpreter = Interpreter(graph, Trial().weights(graph, {}))
    seen = set()
    for step in Trial().steps(graph):
        interpreter.run(step)
        seen.add(tuple(step["x"].shape))
        assert step["mask"].any() or step["x"].numel() < 20
    assert len(seen) == 3


def test_spreads_are_followed() -> None:
    spreads = {"x": Spread(5.0, 0.5), "ids": Spread(low=2, high=3), "mask": Spread(1.0)}
    trial = Trial(1, spreads=spreads)
    for step in trial.steps(any_graph()):
        assert step["x"].float().mean() == pytest.approx(5.0, abs=0.6)
        assert set(step["ids"].tolist()) <= {2, 3}
        assert step["mask"].all()
    bounded = next(Trial(spreads={"x": Spread(low=0.0, high=0.5)}).steps(any_graph()))["x"]
    assert bounded.min() == 0.0
    assert bounded.max() == 0.5


def test_json_and_back() -> None:
    trial = Trial(7, 0.5, is_uneven=True, spreads={"x": Spread(1.0, 2.0, 3, 4)})
    assert Trial.from_json(json.loads(json.dumps(trial.to_json()))) == trial

"""The failure fits into a few nodes, and the folder shows it again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import torch

from graphopt.errors import UsageError
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph, Node
from graphopt.ir.parser import parse_graph
from graphopt.ir.verify import verify
from graphopt.passes.bisect import Bisection
from graphopt.passes.equivalence import Comparer
from graphopt.passes.manager import Pass
from graphopt.passes.repro import (
    Repro,
    cut_out,
    fewest,
    is_repro,
    minimise,
    run_repro,
    write_repro,
)
from graphopt.passes.rules import RewriteRule, RulePass
from tests.passes import wrong

VERSIONS = {"graphopt": "1", "torch": torch.__version__}


def minimal(graph: Graph, *pipeline: Pass) -> Repro:
    comparer = Comparer(graph)
    culprit = Bisection(graph, pipeline, comparer).find()
    assert culprit is not None
    return minimise(culprit, pipeline, comparer)


def bad(rule: RewriteRule) -> Pass:
    return RulePass("bad", [rule])


CASES: list[tuple[Pass, str, int]] = [
    (bad(wrong.SwappedSub()), "sub", 2),
    (bad(wrong.LostEpsilon()), "rsqrt", 2),
    (wrong.OnePlace("1."), "silu", 2),
    (wrong.Raises(), "sigmoid", 2),
    (wrong.IllTyped(), "pow", 1),
    (wrong.Silent(), "linear", 1),
]


@pytest.mark.parametrize("dtype", [DType.F32, DType.BF16])
@pytest.mark.parametrize(("one", "op", "size"), CASES, ids=lambda case: getattr(case, "name", ""))
def test_small_and_seen_again(one: Pass, op: str, size: int, dtype: DType, tmp_path: Path) -> None:
    before = () if isinstance(one, wrong.OnePlace) else (RulePass("none", [], ensures=["gates"]),)
    gates = (wrong.gates(),) if not before else ()
    pipeline = [*before, *gates, one]
    repro = minimal(wrong.decoder(dtype), *pipeline)
    verify(repro.graph)
    assert len(repro.graph.nodes) <= size
    assert op in {node.op for node in repro.graph.nodes} or one.name == "silent"
    write_repro(tmp_path, repro, command="graphopt bisect X", versions=VERSIONS)
    assert is_repro(tmp_path)
    again = run_repro(tmp_path, lambda scalars: pipeline)
    assert again is not None
    assert again.fault == repro.fault
    assert again.rewrite == repro.rewrite
    readme = (tmp_path / "README.md").read_text()
    assert "graphopt bisect X" in readme
    assert torch.__version__ in readme
    assert (tmp_path / "after.ir").exists() == (repro.after is not None)


def test_a_pass_that_was_put_right_shows_nothing(tmp_path: Path) -> None:
    write_repro(
        tmp_path,
        minimal(wrong.decoder(), wrong.gates(), wrong.OnePlace("2.")),
        command="",
        versions={},
    )
    assert run_repro(tmp_path, lambda scalars: [wrong.OnePlace("2.")]) is not None
    assert run_repro(tmp_path, lambda scalars: [wrong.OnePlace("nowhere")]) is None


def test_weights_that_are_known_leave_their_spread_behind(tmp_path: Path) -> None:
    comparer = Comparer(wrong.decoder(), {"head": torch.full((wrong.VOCAB, wrong.HIDDEN), 3.0)})
    pipeline = [wrong.Silent()]
    culprit = Bisection(wrong.decoder(), pipeline, comparer).find()
    assert culprit is not None
    repro = minimise(culprit, pipeline, comparer)
    assert repro.trial is not None
    assert (repro.trial.spreads["head"].mean, repro.trial.spreads["head"].std) == (3.0, 0.0)
    write_repro(tmp_path, repro, command="", versions={}, scalars={"head": 3, "gone": 4.0})
    data = json.loads((tmp_path / "repro.json").read_text())
    assert data["scalars"] == {"head": 3}
    kept = data["trial"]["spreads"]
    told: list[Mapping[str, float | int]] = []

    def pipeline_for(scalars: Mapping[str, float | int]) -> Sequence[Pass]:
        told.append(scalars)
        return pipeline

    run_repro(tmp_path, pipeline_for)
    assert told == [{"head": 3}]
    graph = parse_graph((tmp_path / "before.ir").read_text())
    assert set(kept) <= {value.name for value in (*graph.inputs, *graph.weights)}


def test_fewest_keeps_what_is_needed() -> None:
    nodes = wrong.decoder().nodes
    needed = {nodes[3], nodes[17], nodes[40]}
    tries = 0

    def still(some: Sequence[Node]) -> bool:
        nonlocal tries
        tries += 1
        return needed <= set(some)

    assert fewest(nodes, still) == [nodes[3], nodes[17], nodes[40]]
    assert tries < len(nodes)


def test_a_part_is_well_formed_or_nothing() -> None:
    graph = wrong.decoder()
    attention = graph.nodes_named("attention")[1]
    part = cut_out(graph, [attention])
    assert part is not None
    verify(part)
    assert part.inputs[:3] == (graph.input("starts"), graph.input("lengths"), graph.input("tables"))
    assert part.outputs == attention.outputs
    writes: tuple[Node, ...] = graph.nodes_named("kv_write")
    assert cut_out(graph, writes[:1]) is None  # no tensor comes out of it


def test_folders_that_are_no_repro(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not a repro"):
        run_repro(tmp_path, lambda scalars: [])
    write_repro(tmp_path, minimal(wrong.decoder(), wrong.Silent()), command="", versions={})
    with pytest.raises(UsageError, match="no such pass"):
        run_repro(tmp_path, lambda scalars: [wrong.gates()])
    (tmp_path / "repro.json").write_text('{"schema": 99}')
    with pytest.raises(UsageError, match="not a repro"):
        run_repro(tmp_path, lambda scalars: [])


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("trial", 3),
        ("trial", "x"),
        ("trial", {"seed": 0}),
        ("trial", {"seed": None, "gain": 1, "is_uneven": False, "spreads": {}}),
        ("trial", {"seed": 10**30, "gain": 1, "is_uneven": False, "spreads": {}}),
        ("trial", {"seed": 0, "gain": 1, "is_uneven": False, "spreads": [1]}),
        ("trial", {"seed": 0, "gain": 1, "is_uneven": False, "spreads": {"x": {"mean": "y"}}}),
        ("scalars", [1]),
        ("scalars", {"eps": "x"}),
    ],
)
def test_edited_recipes_are_refused(tmp_path: Path, key: str, value: object) -> None:
    write_repro(tmp_path, minimal(wrong.decoder(), wrong.Silent()), command="", versions={})
    recipe = json.loads((tmp_path / "repro.json").read_text())
    (tmp_path / "repro.json").write_text(json.dumps({**recipe, key: value}))
    with pytest.raises(UsageError, match="not a repro"):
        run_repro(tmp_path, lambda scalars: [wrong.Silent()])


def test_a_repro_without_its_graph_is_refused(tmp_path: Path) -> None:
    write_repro(tmp_path, minimal(wrong.decoder(), wrong.Silent()), command="", versions={})
    (tmp_path / "before.ir").unlink()
    with pytest.raises(UsageError, match="not a repro"):
        run_repro(tmp_path, lambda scalars: [wrong.Silent()])

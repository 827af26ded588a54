"""The wrong pass is found, and the one rewrite in it, among many that are right."""

from __future__ import annotations

import pytest
import torch

from graphopt.errors import IRError
from graphopt.ir.compare import same_graph
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph
from graphopt.passes.bisect import Bisection, Culprit
from graphopt.passes.equivalence import Comparer
from graphopt.passes.manager import Pass, PassContext, run_passes
from graphopt.passes.pipeline import decoder_pipeline
from graphopt.passes.rules import RewriteRule, RulePass
from tests.passes import wrong


def find(graph: Graph, *pipeline: Pass) -> Culprit | None:
    return Bisection(graph, pipeline, Comparer(graph)).find()


@pytest.mark.parametrize("dtype", [DType.F32, DType.BF16])
def test_right_passes_have_no_culprit(dtype: DType) -> None:
    assert find(wrong.decoder(dtype), wrong.gates(), *decoder_pipeline()) is None


@pytest.mark.parametrize("dtype", [DType.F32, DType.BF16])
@pytest.mark.parametrize("rule", [wrong.SwappedSub(), wrong.LostEpsilon()])
def test_a_wrong_rule(rule: RewriteRule, dtype: DType) -> None:
    found = find(wrong.decoder(dtype), wrong.gates(), RulePass("bad", [rule]), *decoder_pipeline())
    assert found is not None
    assert found.pass_name == "bad"
    assert found.number == wrong.LAYERS + 1  # after the gates, the very first
    assert found.rewrite.startswith(f"{rule.name} at %")
    assert found.fault.kind == "disagrees"
    assert found.after is not None
    assert same_graph(found.before, found.given)


@pytest.mark.parametrize("layer", range(wrong.LAYERS))
def test_one_of_many_places(layer: int) -> None:
    found = find(wrong.decoder(), wrong.gates(), wrong.OnePlace(f"{layer}."), *decoder_pipeline())
    assert found is not None
    assert (found.pass_name, found.number) == ("one-place", wrong.LAYERS + layer + 1)
    # The graph before it has the rewrites that are right.
    again, _ = run_passes(
        wrong.decoder(), [wrong.gates(), wrong.OnePlace("none")], PassContext(fuel=found.number - 1)
    )
    assert [node.op for node in found.before.nodes] == [node.op for node in again.nodes]


def test_a_pass_that_raises() -> None:
    clean = RulePass("clean", [], ensures=["gates"])
    found = find(wrong.decoder(), clean, wrong.Raises())
    assert found is not None
    assert (found.pass_name, found.number, found.after) == ("raises", 2, None)
    assert found.rewrite.startswith("stumble at %")
    assert found.fault.kind == "fails"
    assert "ValueError: no idea what" in found.fault.what


def test_a_pass_that_breaks_the_graph() -> None:
    found = find(wrong.decoder(), wrong.gates(), wrong.IllTyped())
    assert found is not None
    assert (found.pass_name, found.number) == ("ill-typed", wrong.LAYERS + 1)
    assert "broke the graph" in found.fault.what


def test_an_earlier_error_is_found_before_a_later_failure() -> None:
    bad = RulePass("bad", [wrong.LostEpsilon()], ensures=["gates"])
    found = find(wrong.decoder(), bad, wrong.Raises())
    assert found is not None
    assert found.pass_name == "bad"


def test_a_pass_that_asks_nobody() -> None:
    found = find(wrong.decoder(), wrong.gates(), wrong.Silent())
    assert found is not None
    assert (found.pass_name, found.number) == ("silent", 0)
    assert found.place == "pass silent, before its first rewrite"


def test_disabled_passes_and_fuel_are_kept() -> None:
    pipeline = [wrong.gates(), RulePass("bad", [wrong.LostEpsilon()])]
    comparer = Comparer(wrong.decoder())
    off = Bisection(wrong.decoder(), pipeline, comparer, disabled=frozenset({"bad"}))
    assert off.find() is None
    assert Bisection(wrong.decoder(), pipeline, comparer, fuel=wrong.LAYERS).find() is None
    assert Bisection(wrong.decoder(), pipeline, comparer, fuel=wrong.LAYERS + 1).find() is not None


def test_a_graph_that_does_not_run_is_no_pass_s_fault() -> None:
    graph = wrong.decoder()
    comparer = Comparer(graph, {"embed": torch.zeros(2, 2)})
    with pytest.raises(IRError, match="wrong shape"):
        Bisection(graph, [wrong.gates()], comparer).find()

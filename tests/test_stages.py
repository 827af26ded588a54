"""The stages run in order, take out what they are told to, and say how long each took."""

import pytest

from graphopt.errors import UsageError
from graphopt.passes.fusion_regions import FUSIONS
from graphopt.passes.manager import PassContext
from graphopt.passes.pipeline import decoder_pipeline
from graphopt.stages import check_names, lower, stage_names
from graphopt.target import Target
from tests.passes.models import lowered, traced


def test_everything_that_can_be_left_out_has_a_name() -> None:
    names = stage_names(decoder_pipeline())
    assert len(set(names)) == len(names)
    assert set(FUSIONS) < set(names)
    check_names(decoder_pipeline(), frozenset(names))
    with pytest.raises(UsageError, match="no such pass") as caught:
        check_names(decoder_pipeline(), frozenset({"fuse-everything"}))
    assert "fuse-heads" in str(caught.value.expected)


def test_a_plan_for_each_kind_of_target() -> None:
    cpu, cuda = (lowered("llama", target) for target in ("cpu", "cuda:sm_90"))
    assert len(cpu.pieces) == 1
    assert len(cuda.pieces) > 1
    assert [region.name for region in cpu.regions] == [region.name for region in cuda.regions]
    assert set(cpu.seconds) == {"hoist", "regions", "kernels", "order", "memory", "pieces"}
    assert [report.name for report in cpu.reports] == [one.name for one in decoder_pipeline()]


def test_nothing_but_tracing_is_left_when_everything_is_disabled() -> None:
    decoder = traced("llama")
    names = frozenset(stage_names(decoder_pipeline()))
    context = PassContext()
    found = lower(decoder.graph, decoder_pipeline(), Target("cpu"), context, disabled=names)
    assert found.graph.nodes == decoder.graph.nodes
    assert context.applied == 0


def test_observers_see_each_pass() -> None:
    seen: list[str] = []
    decoder = traced("llama")
    lower(
        decoder.graph,
        decoder_pipeline(),
        Target("cpu"),
        PassContext(),
        disabled=frozenset({"merge-linears", "fuse-heads"}),
        observe=lambda name, before, after: seen.append(name),
    )
    assert seen == [one.name for one in decoder_pipeline() if one.name != "merge-linears"]

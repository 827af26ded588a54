"""The pipeline's names are handles, so each stands once; a second run has nothing left to do."""

import pytest

from graphopt.ir.builder import GraphBuilder
from graphopt.ir.compare import difference
from graphopt.ir.dtype import DType
from graphopt.ir.types import TensorType
from graphopt.passes.manager import check_pipeline, run_passes
from graphopt.passes.pipeline import decoder_pipeline, function_pipeline

from .models import traced


def test_names_are_unique_and_requirements_met() -> None:
    for pipeline in (decoder_pipeline(), function_pipeline()):
        names = [one.name for one in pipeline]
        assert len(set(names)) == len(names)
        check_pipeline(pipeline)


def test_a_second_run_on_a_small_graph_changes_nothing() -> None:
    b = GraphBuilder("g")
    x = b.input("x", TensorType(DType.F32, (2, 3)))
    y = b.one("reshape", [x], {"shape": (3, 2)})
    z = b.one("reshape", [y], {"shape": (6,)})
    pair = b.one("add", [b.one("cos", [z]), b.one("cos", [z])])
    graph, first = run_passes(b.finish([pair]), decoder_pipeline())
    assert {report.name for report in first if report.modified} == {
        "remove-identities",
        "share-common",
    }
    again, second = run_passes(graph, decoder_pipeline())
    assert not any(report.modified for report in second)
    assert again is graph


@pytest.mark.parametrize("name", ["llama", "gemma3_text"])
def test_a_second_run_on_a_model_changes_nothing(name: str) -> None:
    decoder = traced(name)
    graph, _ = run_passes(decoder.graph, decoder_pipeline(decoder.scalars))
    again, _ = run_passes(graph, decoder_pipeline(decoder.scalars))
    assert difference(graph, again) is None

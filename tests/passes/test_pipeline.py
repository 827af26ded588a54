"""The pipeline's names are handles, so each stands once; it runs on any graph and ends."""

from graphopt.ir.builder import GraphBuilder
from graphopt.ir.dtype import DType
from graphopt.ir.types import TensorType
from graphopt.passes.manager import run_passes
from graphopt.passes.pipeline import decoder_pipeline


def test_names_are_unique() -> None:
    names = [rewrite.name for rewrite in decoder_pipeline()]
    assert len(set(names)) == len(names)


def test_a_second_run_changes_nothing() -> None:
    b = GraphBuilder("g")
    x = b.input("x", TensorType(DType.F32, (2, 3)))
    y = b.one("reshape", [x], {"shape": (3, 2)})
    z = b.one("reshape", [y], {"shape": (6,)})
    pair = b.one("add", [b.one("cos", [z]), b.one("cos", [z])])
    graph, first = run_passes(b.finish([pair]), decoder_pipeline())
    assert [report.modified for report in first] == [True, True]
    again, second = run_passes(graph, decoder_pipeline())
    assert not any(report.modified for report in second)
    assert again is graph

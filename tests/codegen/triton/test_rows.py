"""Row kernels in the interpreter: every graph of the row programs' tests, every variant."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from graphopt.ir.graph import Graph

from ..rows import index_graphs, layers_graphs, pointwise_graphs, reduce_graphs, shape_graphs
from .row_cases import check_all

GRAPHS: dict[str, Callable[[], Sequence[Graph]]] = {
    "norms": layers_graphs.norms,
    "ropes": layers_graphs.ropes,
    "routers": layers_graphs.routers,
    "writes": layers_graphs.writes,
    "reductions": reduce_graphs.reductions,
    "lines": reduce_graphs.lines,
    "floats": pointwise_graphs.floats,
    "integers": pointwise_graphs.integers_and_bools,
    "casts": pointwise_graphs.casts_and_mixtures,
    "creation": pointwise_graphs.creation,
    "views": shape_graphs.views,
    "split": lambda: [shape_graphs.split()],
    "assembled": shape_graphs.assembled,
    "several results": shape_graphs.several_results,
    "reads": index_graphs.reads,
    "quantized": lambda: [index_graphs.quantized(8, 64, 32), index_graphs.quantized(4, 70, 32)],
}


@pytest.mark.interpreted
@pytest.mark.parametrize("name", GRAPHS)
def test_graphs(name: str) -> None:
    check_all(GRAPHS[name]())

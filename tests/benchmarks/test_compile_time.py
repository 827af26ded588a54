"""The programs that are measured run, and their figures become rows."""

from __future__ import annotations

import json

from benchmarks import compile_time
from benchmarks.harness import PRINT_PEAK, Run, run_python
from benchmarks.sparse_checkpoint import llama_shapes


def test_the_large_shape_is_that_of_70b() -> None:
    shapes = llama_shapes(compile_time.LLAMA_70B).values()
    count = sum(shape[0] * (shape[1] if len(shape) > 1 else 1) for shape in shapes)
    assert 70e9 < count < 71e9


def test_programs_are_python() -> None:
    for code in (
        compile_time.STAGES,
        compile_time.COMPILE,
        compile_time.EXPORT,
        compile_time.INDUCTOR,
    ):
        compile(code + PRINT_PEAK, "program", "exec")


def test_figures_and_rows() -> None:
    program = "import json; print('noise'); print(json.dumps({'total': 2.0, 'tracing': 0.5}))"
    run = run_python(program + PRINT_PEAK)
    assert compile_time.figures(run) == {"total": 2.0, "tracing": 0.5}
    other = Run(9.0, 10**6, json.dumps({"total": 4.0, "tracing": 0.001}))
    row = compile_time.row_of([run, other, other])
    assert row["seconds"]["total"]["median"] == 4.0
    assert row["seconds"]["tracing"]["samples"] == [0.5, 0.001, 0.001]
    table = compile_time.table_of({"it": row})
    assert table.row_count == 1  # tracing is too little to show

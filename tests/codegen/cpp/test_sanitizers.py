"""Whole models under the compiler's sanitizers: no access out of bounds, no race, no overflow.

Each buffer is memory of its own, so that a kernel that leaves one is seen. A kernel that was broken
on purpose shows that it would have been.
"""

from __future__ import annotations

import numpy as np
import pytest

from graphopt.config import EMBED, GENERATE
from graphopt.frontend.hf import trace_decoder
from graphopt.ir.dtype import DType
from graphopt.passes.manager import PassContext
from graphopt.passes.pipeline import decoder_pipeline
from graphopt.plan import CPP
from graphopt.runtime.executor import StepInputs
from graphopt.stages import Lowered, lower
from graphopt.target import Target
from tests.models.families import small_config
from tests.runtime.native_decoder import BLOCK, Run, batch

from .native import ISAS
from .standalone import Program

pytestmark = pytest.mark.full

ADDRESS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")
# Threads of the standard library, for ThreadSanitizer does not see how those of libgomp wait.
THREAD = ("-fsanitize=thread", "-DGOPT_STD_THREADS")
TOLERANCE = {DType.F32: 1e-4, DType.BF16: 5e-2}
ROUNDED = 5e-2  # where rows are rounded, and a number may lie between two steps
MODELS = [
    ("llama", DType.F32, None),
    ("llama", DType.BF16, "int8"),
    ("llama", DType.BF16, "int4"),
    ("gpt_oss", DType.BF16, None),
    ("gpt_oss", DType.F32, "int8"),
    ("mixtral", DType.F32, "int4"),
    ("deepseek_v3", DType.F32, None),
    ("bert", DType.F32, None),
    ("modernbert", DType.BF16, None),
]
ENCODERS = ("bert", "modernbert")


def lowered(name: str, dtype: DType, quantize: str | None) -> Lowered:
    task = EMBED if name in ENCODERS else GENERATE
    decoder = trace_decoder(small_config(name, num_hidden_layers=2), dtype, task)
    pipeline = decoder_pipeline(decoder.scalars, quantize)
    found = lower(decoder.graph, pipeline, Target("cpu"), PassContext())
    assert {step.backend for step in found.memory.steps} == {CPP}
    return found


def steps() -> list[StepInputs]:
    """Prefill, decode, both at once, no rows, many rows, one token, more rows than a tile has."""
    one, two, three = list(range(1, 27)), list(range(40, 62)), [7]
    first, second = [9, 2, 5, 0, 4, 11, 10], [3, 8, 1, 6, 7, 9]
    return [
        batch(Run(one[:17], 0, first)),
        batch(Run(one[:18], 17, first)),
        batch(Run(one[:19], 18, first), Run(two[:6], 0, second)),
        batch(Run(two[:11], 6, second, all_rows=False)),
        batch(Run(two[:21], 11, second), Run(one[:25], 19, first)),
        batch(Run(three, 0, [11]), Run(two[:22], 21, second)),
        batch(Run([n * 7 % 90 for n in range(91)], 0, range(12, 35)), Run(three * 2, 1, [11])),
    ]


@pytest.mark.parametrize(("name", "dtype", "quantize"), MODELS)
@pytest.mark.parametrize("isa", dict.fromkeys((ISAS[0], "portable")))
def test_no_access_out_of_bounds(name: str, dtype: DType, quantize: str | None, isa: str) -> None:
    program = Program(lowered(name, dtype, quantize), isa, ADDRESS)
    for threads in (1, 3):
        check(program, threads, ROUNDED if quantize else TOLERANCE[dtype])


@pytest.mark.parametrize(("name", "dtype", "quantize"), MODELS)
def test_no_race(name: str, dtype: DType, quantize: str | None) -> None:
    program = Program(lowered(name, dtype, quantize), ISAS[0], THREAD)
    check(program, 3, ROUNDED if quantize else TOLERANCE[dtype])


def check(program: Program, threads: int, tolerance: float) -> None:
    done, answers = program.run(steps(), threads, BLOCK)
    assert done.returncode == 0, done.stderr[-6000:]
    assert len(answers) == len(steps())
    for answer in answers:
        error = np.linalg.norm(answer.logits - answer.expected)
        assert error <= tolerance * np.linalg.norm(answer.expected)
        assert np.array_equal(answer.greedy, answer.logits.argmax(axis=1))
        ranks = (answer.logits > np.take_along_axis(answer.logits, answer.drawn[:, None], 1)).sum(1)
        assert np.all(ranks < 5)


def test_a_kernel_that_writes_too_far_is_seen() -> None:
    found = lowered("llama", DType.F32, None)
    edit = ("team.share(step.T, 1, first, last);", "team.share(step.T + 1, 1, first, last);")
    done, _ = Program(found, "portable", ADDRESS, edit).run(steps(), 1, BLOCK)
    assert done.returncode != 0
    assert "AddressSanitizer: heap-buffer-overflow" in done.stderr


def test_kernels_that_do_not_wait_are_seen() -> None:
    found = lowered("llama", DType.F32, None)
    edit = ("      team.barrier();\n", "")
    done, _ = Program(found, ISAS[0], THREAD, edit).run(steps(), 3, BLOCK)
    assert done.returncode != 0
    assert "ThreadSanitizer: data race" in done.stderr

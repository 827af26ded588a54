"""What the tools say of cubins, and that code which spills gets the registers that there are."""

from __future__ import annotations

import pytest

from graphopt.codegen.triton.assembler import assembled, bounds, instructions_of, usage_of
from graphopt.codegen.triton.compile import compile_variant
from graphopt.errors import CompileError
from graphopt.ir.dtype import DType

from .kernels import copy_kernel, dot_kernel


@pytest.mark.slow
def test_what_is_assembled_again_is_what_ships() -> None:
    # So many sums that the assembler's options for registers make a difference.
    kernel = dot_kernel(DType.BF16, rows=128, columns=256, inner=256, warps=4)
    cubin = compile_variant(kernel, kernel.variants[0], 90)
    again, log = assembled(cubin.ptx, 90)
    assert "registers" in log
    assert instructions_of(again) == instructions_of(cubin.code)
    assert usage_of(again) == usage_of(cubin.code)


def test_a_thread_without_spills_has_no_stack() -> None:
    kernel = copy_kernel()
    usage = usage_of(compile_variant(kernel, kernel.variants[0], 90).code)
    assert 16 <= usage.registers <= 64
    assert usage.stack_bytes == 0


def test_text_that_is_none_is_an_error() -> None:
    with pytest.raises(CompileError, match=r"ptxas.* failed"):
        assembled("nothing", 90)
    with pytest.raises(CompileError, match="nvdisasm failed"):
        instructions_of(b"nothing")


@pytest.mark.parametrize(
    ("registers", "threads", "expected"),
    [
        (64, 128, [72, 80, 96, 255]),  # 8 programs; of bounds for fewer, the next and the last
        (168, 64, [176, 200, 255]),  # 6 programs, of which 5 can have 200
        (168, 128, [176, 255]),  # 3 programs; 255 are as many as two can have
        (248, 128, [255]),
        (253, 128, []),
        (255, 128, []),
        (64, 512, [72, 128]),
        (128, 512, []),  # one program has them all
        (40, 1024, [48, 64]),  # which cost nothing
    ],
)
def test_bounds_leave_room_for_ever_fewer_programs(
    registers: int, threads: int, expected: list[int]
) -> None:
    assert bounds(registers, threads) == expected

"""Cubins for architectures that are not here, and errors that quote the kernel."""

from __future__ import annotations

import re
import sys
from dataclasses import replace

import pytest

import graphopt.codegen.triton.compile as module
from graphopt.codegen.triton.assembler import Usage
from graphopt.codegen.triton.compile import TYPES, arch_number, compile_variant
from graphopt.codegen.triton.kernel import TritonKernel, Variant, named_kernel
from graphopt.errors import CompileError, MachineError
from graphopt.ir.dtype import DType
from tests.codegen.triton.kernels import HEAD, copy_kernel

ELF = b"\x7fELF"


@pytest.mark.slow
@pytest.mark.parametrize("arch", [80, 86, 89, 90, 100, 120])
def test_a_cubin_for_each_architecture(arch: int) -> None:
    kernel = copy_kernel()
    cubin = compile_variant(kernel, kernel.variants[0], arch)
    assert cubin.code.startswith(ELF)
    assert (cubin.symbol, cubin.threads, cubin.arch) == (kernel.name, 128, arch)
    assert f".target sm_{arch}" in cubin.ptx
    # Its arguments, then Triton's own two.
    assert [cubin.ptx.count(f"{kernel.name}_param_{place}") > 0 for place in range(6)] == [
        *[True] * 5,
        False,
    ]
    assert cubin.global_bytes == 0


def test_architectures_have_numbers() -> None:
    assert arch_number("sm_120") == 120


def test_warps_are_threads() -> None:
    kernel = copy_kernel(below={"T": 16})
    assert compile_variant(kernel, kernel.variants[0], 90).threads == 256


def test_nothing_is_assumed_of_sizes() -> None:
    """One cubin runs for one row and for many: the size is an argument and no constant."""
    text = f"""{HEAD}def KERNEL_NAME(x_ptr, T):
    tl.store(x_ptr + tl.program_id(0), T)
"""
    kernel = named_kernel("size", text, (DType.I32,), ("T",), [Variant("KERNEL_NAME")])
    ptx = compile_variant(kernel, kernel.variants[0], 90).ptx
    assert f"ld.param.b32 \t%r1, [{kernel.name}_param_1]" in ptx.replace("u32", "b32")


@pytest.mark.parametrize("arch", [80, 86])
@pytest.mark.parametrize("dtype", [DType.F8E4M3])
def test_fp8_is_refused_where_tensor_cores_lack_it(dtype: DType, arch: int) -> None:
    kernel = copy_kernel(dtype)
    with pytest.raises(CompileError, match="fp8 needs another GPU") as caught:
        compile_variant(kernel, kernel.variants[0], arch)
    assert caught.value.got == f"sm_{arch}"
    assert compile_variant(kernel, kernel.variants[0], 89).code


def test_an_error_quotes_the_line() -> None:
    text = f"""{HEAD}def KERNEL_NAME(x_ptr, T):
    x = tl.load(x_ptr + tl.arange(0, 100))
    tl.store(x_ptr, x)
"""
    kernel = named_kernel("odd", text, (DType.F32,), ("T",), [Variant("KERNEL_NAME")])
    with pytest.raises(CompileError) as caught:
        compile_variant(kernel, kernel.variants[0], 90)
    assert "tl.arange(0, 100)" in str(caught.value)
    assert "power of 2" in str(caught.value)
    assert kernel.name in str(caught.value.where)


@pytest.mark.parametrize(
    ("spilling", "bound"),
    [([], None), ([64], 72), ([64, 72, 80, 96], 255), ([64, 72, 80, 96, 255], None)],
)
def test_code_that_spills_gets_more_registers(
    monkeypatch: pytest.MonkeyPatch, spilling: list[int], bound: int | None
) -> None:
    """A few more, then ever more; where nothing helps, those that it chose."""
    kernel, answers = copy_kernel(), [Usage(one, 8) for one in spilling]
    monkeypatch.setattr(
        module, "usage_of", lambda code: answers.pop(0) if answers else Usage(64, 0)
    )
    cubin = compile_variant(kernel, kernel.variants[0], 90)
    found = re.search(r"[.]maxnreg (\d+)", cubin.ptx)
    assert (int(found[1]) if found else None) == bound
    assert answers == []


@pytest.mark.parametrize("sizes", [(), ("S", "T")])
def test_arguments_must_be_those_of_the_kernel(sizes: tuple[str, ...]) -> None:
    kernel = replace(copy_kernel(), sizes=sizes)
    with pytest.raises(CompileError, match="takes other arguments"):
        compile_variant(kernel, kernel.variants[0], 90)


def test_without_triton_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel: TritonKernel = copy_kernel()
    monkeypatch.setitem(sys.modules, "triton", None)
    with pytest.raises(MachineError, match="need Triton") as caught:
        compile_variant(kernel, kernel.variants[0], 90)
    assert caught.value.next == "pip install 'graphopt[cuda]'"


def test_every_type_has_a_name_in_triton() -> None:
    assert set(DType) - TYPES.keys() == set()

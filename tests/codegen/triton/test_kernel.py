"""Kernels have names by what they compute, and a variant for every step."""

from __future__ import annotations

import pytest

from graphopt.codegen.triton.kernel import Variant, kernel_called, named_kernel
from graphopt.errors import CompileError
from graphopt.ir.dtype import DType
from graphopt.ir.shape import sym

TEXT = "# of layer 3\ndef KERNEL_NAME(x_ptr):\n    # a comment\n    pass\n"
ANY = Variant("KERNEL_NAME", {"BLOCK": 8})


def test_the_name_says_what_and_how() -> None:
    kernel = named_kernel("Add + RMS norm!", TEXT, (DType.F32,), ("T",), [ANY])
    assert kernel.name.startswith("add_rms_norm_")
    assert f"def {kernel.name}(x_ptr)" in kernel.text
    assert kernel.variants[0].function == kernel.name
    assert named_kernel("+", TEXT, (), (), [ANY]).name.startswith("kernel_")


def test_kernels_that_differ_in_comments_are_one() -> None:
    names = {
        named_kernel("norm", text, (DType.F32,), ("T",), [ANY]).name
        for text in (
            TEXT,
            TEXT.replace("layer 3", "layer 4"),
            TEXT.replace("    # a comment\n", ""),
        )
    }
    assert len(names) == 1


def test_kernels_that_differ_in_names_of_values_are_one() -> None:
    text = "def KERNEL_NAME(x_ptr, T, N: tl.constexpr):\n    a = tl.load(x_ptr)\n    b = a + T\n"
    kernel = named_kernel("norm", text, (DType.F32,), ("T",), [ANY])
    other = (
        text.replace("x_ptr", "hidden").replace("a = tl", "first = tl").replace("a +", "first +")
    )
    same = named_kernel("norm", other, (DType.F32,), ("T",), [ANY])
    assert same.name == kernel.name
    assert "hidden" in same.text
    for changed in (
        text.replace("a + T", "a + a"),
        text.replace("N: tl.constexpr", "M: tl.constexpr"),
        text.replace("tl.load", "tl.sum"),
        text.replace("(x_ptr, T,", "(T, x_ptr,"),
    ):
        assert named_kernel("norm", changed, (DType.F32,), ("T",), [ANY]).name != kernel.name


def test_whatever_changes_the_kernel_changes_its_name() -> None:
    other = Variant("KERNEL_NAME", {"BLOCK": 16})
    names = [
        named_kernel("norm", TEXT, (DType.F32,), ("T",), [ANY]).name,
        named_kernel("norm", TEXT, (DType.F16,), ("T",), [ANY]).name,
        named_kernel("norm", TEXT, (DType.F32,), ("R",), [ANY]).name,
        named_kernel("norm", TEXT, (DType.F32,), ("T",), [other]).name,
        named_kernel("norm", TEXT, (DType.F32,), ("T",), [ANY], workspace=4).name,
        named_kernel("norm", TEXT.replace("pass", "return"), (DType.F32,), ("T",), [ANY]).name,
    ]
    assert len(set(names)) == len(names)


def test_the_first_variant_that_fits_runs() -> None:
    few = Variant("KERNEL_NAME_few", {}, (sym("T"),), {"T": 16})
    short = Variant("KERNEL_NAME_short", {}, (1,), {"T": 64, "P": 8})
    kernel = named_kernel("attend", TEXT, (), ("P", "T"), [few, short, ANY])
    functions = [one.function for one in kernel.variants]
    for sizes, place in (((16, 99), 0), ((17, 8), 1), ((64, 9), 2), ((65, 1), 2)):
        found = kernel.variant({"T": sizes[0], "P": sizes[1]})
        assert functions.index(found.function) == place


def test_a_grid_is_a_function_of_the_sizes() -> None:
    variant = Variant("f", grid=((sym("T") + 15) // 16, 8))
    assert variant.programs({"T": 17}) == (2, 8, 1)
    assert Variant("f").programs({}) == (1, 1, 1)


@pytest.mark.parametrize("variants", [[], [Variant("f", below={"T": 64})]])
def test_some_variant_fits_every_step(variants: list[Variant]) -> None:
    with pytest.raises(CompileError, match="no variant for some sizes"):
        named_kernel("norm", TEXT, (), ("T",), variants)


def test_a_name_that_others_know_stays_as_it_is() -> None:
    every = Variant("KERNEL_NAME_all")
    kernel = kernel_called("sample", "def KERNEL_NAME_all(): pass\n", (), ("R",), [every])
    assert (kernel.name, kernel.text) == ("sample", "def sample_all(): pass\n")
    assert kernel.variants[0].function == "sample_all"
    with pytest.raises(CompileError, match="no variant for some sizes"):
        kernel_called("sample", "", (), ("R",), [])

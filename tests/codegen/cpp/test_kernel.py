"""A kernel's name says what it computes and, by a hash, how."""

from __future__ import annotations

from graphopt.codegen.cpp.kernel import NAME, named_kernel

TEXT = f"static void {NAME}(const Step& step, Team& team, void* const* a) {{ use(a[0]); }}"


def test_the_name_stands_in_the_text_and_in_the_entry() -> None:
    kernel = named_kernel("rms_norm+linear", TEXT, ("gemm.h", "row.h"))
    assert kernel.name.startswith("rms_norm_linear_")
    assert NAME not in kernel.text
    assert f"static void {kernel.name}(" in kernel.text
    assert kernel.source.startswith('#include "gemm.h"\n#include "row.h"\n')
    assert f"void call_{kernel.name}(const Step& step, Team& team, void* const* a)" in kernel.source


def test_comments_make_no_difference() -> None:
    first = named_kernel("add", f"// of layer 0\n{TEXT}  // here", ("row.h",))
    second = named_kernel("add", f"// of layer 1\n{TEXT}  // there", ("row.h",))
    assert first.name == second.name


def test_everything_else_does() -> None:
    names = {
        named_kernel("add", TEXT, ("row.h",)).name,
        named_kernel("add", TEXT.replace("a[0]", "a[1]"), ("row.h",)).name,
        named_kernel("add", TEXT, ("row.h", "gemm.h")).name,
        named_kernel("add", TEXT, ("row.h",), scratch_bytes=64).name,
        named_kernel("add", TEXT, ("row.h",), workspace=64).name,
    }
    assert len(names) == 5


def test_a_title_without_letters_has_a_name_too() -> None:
    assert named_kernel("+", TEXT, ()).name.startswith("kernel_")

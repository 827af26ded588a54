"""Kernels that begin while the one before them ends wait first, and then touch what it wrote."""

from __future__ import annotations

import ast
import re
from dataclasses import replace

import pytest

from graphopt.codegen.rows.arguments import Kind, arguments
from graphopt.codegen.triton.assembler import instructions_of
from graphopt.codegen.triton.compile import compile_variant
from graphopt.codegen.triton.dependent import (
    RELEASE,
    WAIT,
    early_accesses,
    early_instructions,
    entries_of,
    parameters_of,
    with_dependent_launch,
)
from graphopt.codegen.triton.kernel import TritonKernel, Variant, named_kernel
from graphopt.codegen.triton.makers import kernel_of
from graphopt.codegen.triton.resources import resources_of
from graphopt.codegen.triton.step_inputs import taker
from graphopt.errors import CompileError
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph
from graphopt.ir.types import LayerState
from graphopt.region import Region
from tests.codegen.cpp.attention_batch import Case
from tests.codegen.cpp.linear_cases import AFTER, BEFORE, linear_case
from tests.codegen.cpp.test_attention import region_of as attention_case

from .fp8_runs import fp8_shape
from .linear_shapes import shape_case
from .quant_runs import quantized, quantized_shape

_TEXT = """import triton
import triton.language as tl


@triton.jit
def KERNEL_NAME(
    x,
    w,
    y,
    T,
    BLOCK: tl.constexpr,
):
    i = tl.arange(0, BLOCK)
    tl.store(y + i, tl.load(x + i))


@triton.jit
def other(
    x,
):
    return tl.load(x)
"""
_ASKING = "prefetch(w + tl.minimum(tl.program_id(0) * BLOCK + tl.arange(0, 4), 5))"


def _kernel(*early: str) -> TritonKernel:
    variants = [Variant("KERNEL_NAME", {"BLOCK": 16})]
    lines = {"KERNEL_NAME": early}
    return named_kernel("copy", _TEXT, [DType.F32] * 3, ["T"], variants, early=lines)


def _body(kernel: TritonKernel) -> list[str]:
    """The statements of a kernel's only function that is launched."""
    name = entries_of(kernel)[0]
    found = next(one for one in ast.parse(kernel.text).body if getattr(one, "name", "") == name)
    assert isinstance(found, ast.FunctionDef)
    return [ast.unparse(one) for one in found.body]


def test_a_program_lets_the_next_begin_and_waits() -> None:
    plain = _kernel()
    made = with_dependent_launch(plain)
    assert _body(made)[:3] == [RELEASE, WAIT, "i = tl.arange(0, BLOCK)"]
    assert made.text.replace(f"    {RELEASE}\n    {WAIT}\n", "") == plain.text
    assert made.name == plain.name
    assert early_accesses(made) == []
    assert all(one.dependent for one in made.variants)
    assert not any(one.dependent for one in plain.variants)


def test_between_the_two_it_asks_for_weights() -> None:
    made = with_dependent_launch(_kernel(_ASKING))
    assert _body(made)[:3] == [RELEASE, _ASKING, WAIT]
    assert made.text.count("def prefetch(") == 1
    assert early_accesses(made, ["w"]) == []
    # What is no weight may be what the kernel before writes.
    assert len(early_accesses(made)) == 1
    assert "which is no weight" in early_accesses(made)[0]


def test_small_weights_are_asked_for_unless_they_are_already() -> None:
    made = with_dependent_launch(_kernel(), {1: 100})
    assert _body(made)[1] == "prefetch(w + tl.minimum(tl.arange(0, 4) * 32, 99))"
    assert early_accesses(made, ["w"]) == []
    assert _body(with_dependent_launch(_kernel(_ASKING), {1: 100}))[1:3] == [_ASKING, WAIT]


def test_kernels_that_ask_for_other_pointers_have_other_names() -> None:
    names = {with_dependent_launch(_kernel(), small).name for small in ({}, {0: 8}, {1: 8})}
    assert len(names) == 3
    assert all(re.fullmatch(r"copy_[0-9a-f]{10}", name) for name in names)
    made = with_dependent_launch(_kernel(_ASKING))
    assert [made.variants[0].function, *made.early] == [made.name] * 2
    # What a layer calls its weight makes no difference.
    other = replace(_kernel(), text=_kernel().text.replace(" w,", " v,"))
    assert (
        with_dependent_launch(other, {1: 8}).name == with_dependent_launch(_kernel(), {1: 8}).name
    )


@pytest.mark.parametrize(
    "early",
    [
        "seen = tl.load(x + i)",
        "tl.store(y + i, 0.0)",
        "old = tl.atomic_add(y, 1.0)",
        "return",
        "seen = other(w)",
        "tl.load(w)",
        "prefetch(w + tl.load(x))",
        "prefetch(tl.load(x) + w)",
        "prefetch(x + i)",
        RELEASE,
    ],
)
def test_whatever_else_comes_before_is_found(early: str) -> None:
    made = with_dependent_launch(_kernel(early))
    assert early_accesses(made, ["w"]) != []


def test_each_path_waits_once() -> None:
    assert early_accesses(_kernel()) != []  # it never waits at all
    made = with_dependent_launch(_kernel())
    wait = f"    {WAIT}\n"
    for changed in (
        made.text.replace(wait, f"    if T == 0:\n    {wait}"),
        made.text.replace(wait, wait + wait),
        made.text.replace("    return tl.load(x)", f"{wait}    return tl.load(x)").replace(
            "tl.load(x + i)", "other(x + i)"
        ),
        made.text.replace(wait, f"    if T == 0:\n        return\n{wait}"),
    ):
        assert changed != made.text
        assert early_accesses(replace(made, text=changed)) != []


def test_a_function_that_is_missing_is_an_error() -> None:
    kernel = _kernel()
    other = replace(kernel, variants=(replace(kernel.variants[0], function="gone"),))
    with pytest.raises(CompileError, match="lacks a function"):
        early_accesses(other)
    with pytest.raises(CompileError, match="lacks a function"):
        with_dependent_launch(replace(kernel, early={"gone": ()}))
    workspace = replace(kernel, pointers=(DType.F32, None, DType.F32))
    with pytest.raises(CompileError, match="a workspace is no weight"):
        with_dependent_launch(workspace, {1: 8})


_PTX = """.visible .entry copy(
)
{
$L__func_begin0:
	ld.param.b64 	%rd1, [copy_param_0];
	@%p1 tcgen05.alloc.cta_group::1.sync.aligned.shared::cta.b32 [%r24], 256;
	@!%p1 bra 	$L__BB0_1;
	@%p31 mbarrier.init.shared::cta.b64 [%r721], 1;
	st.shared.b32 	[%r1], %r2;
	bar.sync 	0, 128;
	griddepcontrol.launch_dependents ;
	prefetch.global.L2 [%rd1]; mov.b32 %r3, 0;
	griddepcontrol.wait ;
	barrier.sync 	1;
	ld.global.b32 	%r4, [%rd1];
	ret;
$L__BB0_1:                              // %.preheader
	ld.param.b64 	%rd2, [copy_param_1];
	bra.uni 	$L__BB0_2;
$L__BB0_3:
	ld.global.b32 	%r5, [%rd2];
$L__BB0_2:
	barrier.sync 	1;
	ld.global.b32 	%r5, [%rd2];
	ret;
}
"""
_PTX_WAIT = "\tgriddepcontrol.wait ;\n"


def test_code_that_waits_before_all_else_is_well() -> None:
    assert early_instructions(_PTX) == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (_PTX_WAIT, ""),
        (_PTX_WAIT, 2 * _PTX_WAIT),
        (_PTX_WAIT, "\t@%p1 griddepcontrol.wait ;\n"),
        (_PTX_WAIT, f"\tld.global.nc.v4.b32 	%r9, [%rd1];\n{_PTX_WAIT}"),
        (_PTX_WAIT, f"\tld.b32 	%r9, [%rd1];\n{_PTX_WAIT}"),
        (_PTX_WAIT, f"\t@%p2 st.global.b32 	[%rd1], %r9;\n{_PTX_WAIT}"),
        (_PTX_WAIT, f"\tatom.global.add.u32 	%r9, [%rd1], 1;\n{_PTX_WAIT}"),
        (_PTX_WAIT, f"\tred.global.add.u32 	[%rd1], 1;\n{_PTX_WAIT}"),
        (_PTX_WAIT, f"\tcp.async.cg.shared.global [%r1], [%rd1], 16;\n{_PTX_WAIT}"),
        (_PTX_WAIT, f"\t@%p2 ret;\n{_PTX_WAIT}"),
        (_PTX_WAIT, f"$L__BB0_4:\n{_PTX_WAIT}"),
        (_PTX_WAIT, f"\t@%p2 bra 	$L__BB0_3;\n{_PTX_WAIT}"),
        ("bra.uni 	$L__BB0_2", "bra.uni 	$L__BB0_3"),
        ("bra.uni 	$L__BB0_2", "bra.uni 	$L__BB0_1"),
        ("bra.uni 	$L__BB0_2", "@%p5 bra 	$L__BB0_2"),
        (
            "launch_dependents ;",
            "launch_dependents ;\n	tcgen05.alloc.cta_group::1.b32 [%r2], 64;",
        ),
        ("	griddepcontrol.launch_dependents ;\n", ""),
    ],
)
def test_code_that_does_not_is_found(old: str, new: str) -> None:
    changed = _PTX.replace(old, new)
    assert changed != _PTX
    assert early_instructions(changed) != []


def test_code_that_lets_the_next_begin_after_it_has_waited_is_found() -> None:
    release = "\tgriddepcontrol.launch_dependents ;\n"
    changed = _PTX.replace(release, "").replace(_PTX_WAIT, _PTX_WAIT + release)
    assert early_instructions(changed) == ["it lets the next kernel begin after it has waited"]


def test_a_kernel_whose_code_reads_before_it_waits_is_refused() -> None:
    text = with_dependent_launch(_kernel()).text.replace(WAIT, f"seen = tl.load(w)\n    {WAIT}")
    changed = text.replace("tl.load(x + i)", "tl.load(x + i) + seen")
    made = with_dependent_launch(_kernel())
    assert compile_variant(made, made.variants[0], 90).symbol == made.name
    with pytest.raises(CompileError, match="does not wait before all else") as caught:
        compile_variant(replace(made, text=changed), made.variants[0], 90)
    assert "ld.global" in str(caught.value.got)


def _weights_of(graph: Graph, region: Region, kernel: TritonKernel) -> list[str]:
    """Names of a kernel's pointers to weights: those of the graph, which no kernel writes."""
    names = parameters_of(kernel.text, entries_of(kernel)[0])
    return [
        name
        for name, one in zip(names, arguments(graph, region), strict=False)
        if one.kind is Kind.OPERAND and one.value.is_weight
    ]


def _made(arch: int) -> list[tuple[TritonKernel, list[str]]]:
    """Kernels of several families, as a plan for ``arch`` has them, and their weights."""
    layer = LayerState(2, 64, 64, DType.BF16)
    cases = [
        linear_case(BEFORE[0], AFTER[0], DType.BF16),
        linear_case(BEFORE[1], AFTER[1], DType.BF16),
        quantized(BEFORE[0], AFTER[0], DType.BF16, 4, weight_only=True),
        attention_case(Case(layer, 8, 16, DType.BF16)),
    ]
    found = []
    for graph, region in cases:
        made = kernel_of(graph, region, arch=arch, block_size=16, dependent=True)
        assert isinstance(made, TritonKernel)
        found.append((made, _weights_of(graph, region, made)))
    return found


@pytest.mark.parametrize("arch", [90, 100, 120])
def test_every_kernel_waits_before_it_touches_anything(arch: int) -> None:
    for kernel, weights in _made(arch):
        assert early_accesses(kernel, weights) == []
        assert kernel.text.count(WAIT) == len(entries_of(kernel))
        launches = [launch for one in kernel.variants for launch in one.launches]
        assert all(launch.dependent for launch in launches)


def test_older_gpus_have_none() -> None:
    for kernel, _ in _made(89):
        assert WAIT not in kernel.text
        assert not any(one.dependent for one in kernel.variants)


def _at_real_sizes() -> dict[str, tuple[Graph, Region] | None]:
    """Kernels whose registers are scarce."""
    model = "llama-3.2-1b"
    return {
        "gate and up": shape_case(model, "gate_up"),
        "int4": quantized_shape(model, "qkv", 4, 64, weight_only=True),
        "w8a8": quantized_shape(model, "qkv", 8, 128, weight_only=False),
        "fp8": fp8_shape(model, "qkv", 128),
    }


@pytest.mark.full
@pytest.mark.parametrize("arch", [90, 100])
@pytest.mark.parametrize("name", ["gate and up", "int4", "w8a8", "fp8"])
def test_asking_and_waiting_take_no_room(name: str, arch: int) -> None:
    case = _at_real_sizes()[name]
    assert case is not None
    plain, early = (kernel_of(*case, arch=arch, block_size=16, dependent=d) for d in (False, True))
    assert isinstance(plain, TritonKernel)
    assert isinstance(early, TritonKernel)
    is_few = [any(word in one.function for word in ("_few", "_left")) for one in plain.variants]
    assert any(is_few)
    for few, before, after in zip(is_few, plain.variants, early.variants, strict=True):
        if few:
            old = resources_of(compile_variant(plain, before, arch))
            new = resources_of(compile_variant(early, after, arch))
            assert set(new.problems()) <= set(old.problems())
            assert new.programs >= old.programs, f"{old.registers} to {new.registers} registers"
            assert new.instructions["CCTL"] > old.instructions["CCTL"]


@pytest.mark.parametrize("arch", [90, 100])
def test_the_machine_code_waits_first(arch: int) -> None:
    """What ``ptxas`` makes of it keeps the order: nothing is read or written ahead of the wait."""
    touching = ("LD", "ST", "ATOM", "RED", "UTMA", "UBLK", "EXIT", "BRA")
    allowed = ("LDC", "STS", "LDS", "LDCU")
    for kernel in (with_dependent_launch(taker(1000)), _made(arch)[1][0]):
        code = compile_variant(kernel, kernel.variants[0], arch).code
        names = [name for name, _ in instructions_of(code)]
        before = names[: names.index("ACQBULK")]
        assert names.count("ACQBULK") == before.count("PREEXIT") == 1
        assert [one for one in before if one.startswith(touching) and one not in allowed] == []

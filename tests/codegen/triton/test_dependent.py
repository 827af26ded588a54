"""Kernels that begin while the one before them ends wait first, and then touch what it wrote."""

from __future__ import annotations

import ast
import re
from dataclasses import replace
from pathlib import Path

import pytest

from graphopt.codegen.rows.arguments import Kind, arguments
from graphopt.codegen.triton.compile import compile_variant
from graphopt.codegen.triton.dependent import (
    PLACE,
    RELEASE,
    WAIT,
    early_accesses,
    entries_of,
    with_dependent_launch,
)
from graphopt.codegen.triton.kernel import TritonKernel, Variant, named_kernel
from graphopt.codegen.triton.makers import kernel_of
from graphopt.errors import CompileError
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph
from graphopt.ir.parser import parse_graph
from graphopt.ir.types import LayerState
from graphopt.plan import TRITON
from graphopt.plan_arguments import Kind as PlanKind
from graphopt.plan_arguments import arguments_of, layer_of
from graphopt.region import Region
from graphopt.runtime.executors.cuda import CudaExecutor
from graphopt.runtime.scheduler import SchedulerLimits
from tests.checkpoints import save_tiny
from tests.codegen.cpp.attention_batch import Case
from tests.codegen.cpp.linear_cases import AFTER, BEFORE, linear_case
from tests.codegen.cpp.test_attention import region_of as attention_case
from tests.runtime.executors.interpreted_artifact import compile_interpreted, greedy_through_engine
from tests.runtime.executors.interpreted_device import InterpretedDevice

from .quant_runs import quantized

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
{early}{place}    tl.store(y + i, tl.load(x + i))


@triton.jit
def other(
    x,
):
    return tl.load(x)
"""


def _kernel(early: str = "", place: str = "") -> TritonKernel:
    text = _TEXT.format(early=early, place=place)
    variants = [Variant("KERNEL_NAME", {"BLOCK": 16})]
    return named_kernel("copy", text, [DType.F32] * 3, ["T"], variants)


def test_a_program_waits_at_its_beginning() -> None:
    plain = _kernel()
    made = with_dependent_launch(plain)
    lines = made.text.splitlines()
    place = lines.index("):")
    assert [one.strip() for one in lines[place + 1 : place + 3]] == [WAIT, RELEASE]
    assert made.text.count(WAIT) == made.text.count(RELEASE) == 1
    assert made.text.replace(f"    {WAIT}\n    {RELEASE}\n", "") == plain.text
    assert early_accesses(made) == []
    assert all(one.dependent for one in made.variants)
    assert not any(one.dependent for one in plain.variants)


def test_weights_may_be_loaded_before() -> None:
    early = "    w_at = w + i\n    weight = tl.load(w_at)\n"
    made = with_dependent_launch(_kernel(early, f"{PLACE}\n"))
    assert made.text.index("weight = ") < made.text.index(WAIT) < made.text.index("tl.store")
    assert early_accesses(made, ["w"]) == []
    # What is no weight may be what the kernel before writes.
    assert len(early_accesses(made)) == 1


@pytest.mark.parametrize(
    "early",
    [
        "    seen = tl.load(x + i)\n",
        "    tl.store(y + i, 0.0)\n",
        "    old = tl.atomic_add(y, 1.0)\n",
        "    if T == 0:\n        return\n",
        "    seen = other(w)\n",
    ],
)
def test_whatever_else_comes_before_is_found(early: str) -> None:
    made = with_dependent_launch(_kernel(early, f"{PLACE}\n"))
    assert early_accesses(made, ["w"]) != []
    assert early_accesses(_kernel(early)) != []  # it never waits at all


def test_a_function_that_is_missing_is_an_error() -> None:
    kernel = _kernel()
    other = replace(kernel, variants=(replace(kernel.variants[0], function="gone"),))
    with pytest.raises(CompileError, match="lacks a function"):
        early_accesses(other)


def _arguments(text: str, function: str) -> list[str]:
    """What a function of a text calls what it is given."""
    tree = next(one for one in ast.parse(text).body if getattr(one, "name", "") == function)
    assert isinstance(tree, ast.FunctionDef)
    return [one.arg for one in tree.args.args]


def _weights_of(graph: Graph, region: Region, kernel: TritonKernel) -> list[str]:
    """Names of a kernel's pointers to weights: those of the graph, which no kernel writes."""
    names = _arguments(kernel.text, entries_of(kernel)[0])
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


@pytest.mark.parametrize("arch", [90, 100, 120])
def test_the_code_waits_before_it_loads(arch: int) -> None:
    made, weights = _made(arch)[0]
    assert weights
    few, many = made.variants[0], made.variants[-1]
    for variant, is_early in ((few, True), (many, False)):
        code = compile_variant(made, variant, arch).ptx
        wait = code.index("griddepcontrol.wait")
        assert wait < code.index("griddepcontrol.launch_dependents")
        assert "st.global" not in code[:wait]
        assert not re.search(r"ld\.global|cp\.async", code[:wait])
        assert ("prefetch.global.L2" in code[:wait]) == is_early  # weights, for few rows
        assert "prefetch.global.L2" not in code[wait:]


@pytest.mark.interpreted
@pytest.mark.parametrize("name", ["llama", "qwen3_moe"])
def test_a_whole_plan_waits_and_gives_the_same_tokens(name: str, tmp_path: Path) -> None:
    fields = {"num_hidden_layers": 1, "num_experts": 4, "num_experts_per_tok": 2}
    checkpoint = save_tiny(tmp_path / "tiny", name, **(fields if "moe" in name else {}))
    limits = SchedulerLimits(4, 12, 12, 48)
    prompts = [[5, 6, 7, 8, 9, 10, 11, 3, 4, 5, 9, 8, 7, 6], [3, 4]]
    found = []
    for early in (False, True):
        output = tmp_path / f"{early}.gopt"
        artifact = compile_interpreted(checkpoint, output, dependent_launch=early)
        graph = parse_graph(artifact.graph_text())
        ours = {s.kernel: s for s in artifact.plan.steps() if s.backend == TRITON}
        for step in ours.values():
            kernel = artifact.launch(step.kernel)
            given = arguments_of(step, layer_of(graph, step))
            for launch in (one for variant in kernel.variants for one in variant.launches):
                assert launch.dependent == early
                text = artifact.cubin(kernel.name, launch.file).decode()
                variant = Variant(launch.symbol, launch.constants)
                made = TritonKernel(kernel.name, text, kernel.pointers, kernel.sizes, (variant,))
                names = _arguments(text, launch.symbol)
                weights = [
                    name
                    for name, one in zip(names, given, strict=False)
                    if one.kind is PlanKind.WEIGHT
                ]
                assert (early_accesses(made, weights) == []) == early
        executor = CudaExecutor(artifact, InterpretedDevice(), limits)
        found.append(greedy_through_engine(executor, limits, prompts, 2))
        executor.close()
    assert found[0] == found[1]

"""Whole plans whose kernels begin early: what each does before it waits, and that tokens stay."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from graphopt.artifact import Artifact
from graphopt.codegen.triton.dependent import RELEASE, WAIT, early_accesses, parameters_of
from graphopt.codegen.triton.kernel import TritonKernel, Variant
from graphopt.ir.parser import parse_graph
from graphopt.launch import LaunchKernel
from graphopt.loop_kernels import LOOP_KERNELS
from graphopt.plan import TRITON
from graphopt.plan_arguments import Argument, Kind, arguments_of, layer_of
from graphopt.runtime.executors.gpu.executor import CudaExecutor
from graphopt.runtime.scheduler import SchedulerLimits
from tests.checkpoints import save_tiny
from tests.runtime.executors.gpu.interpreted_artifact import (
    compile_interpreted,
    greedy_through_engine,
)
from tests.runtime.executors.gpu.interpreted_device import InterpretedDevice

from .asked import asked_by

MOE = {"num_hidden_layers": 1, "num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2}
ONE: dict[str, Any] = {"num_hidden_layers": 1}


@dataclass(frozen=True)
class Plan:
    """A model, and how it is compiled."""

    family: str
    fields: dict[str, Any]
    options: dict[str, Any]

    def __str__(self) -> str:
        return "-".join([self.family, *map(str, self.options.values())])

    def compile(self, folder: Path, **options: Any) -> Artifact:
        checkpoint = folder / "checkpoint"
        if not checkpoint.exists():
            save_tiny(checkpoint, self.family, **self.fields)
        given = {"dtype": "bfloat16", **self.options, **options}
        return compile_interpreted(checkpoint, folder / f"{len(options)}.gopt", **given)


LLAMA, INT4 = Plan("llama", ONE, {}), Plan("llama", ONE, {"quantize": "int4"})
MIXTRAL = Plan("mixtral", MOE, {})
OTHERS = (
    Plan("llama", {}, {}),
    Plan("qwen3", ONE, {}),
    Plan("qwen3_moe", MOE, {}),
    Plan("llama", ONE, {"quantize": "int8"}),
    Plan("llama", ONE, {"quantize": "w8a8"}),
    Plan("llama", ONE, {"quantize": "fp8"}),
    Plan("llama", ONE, {"quantize": "fp8-tensor"}),
    Plan("llama", ONE, {"deterministic": True}),
)


def kernels_of(artifact: Artifact) -> Iterator[tuple[LaunchKernel, tuple[Argument, ...]]]:
    """The kernels of a plan's steps with what each step gives them, and those between steps."""
    graph = parse_graph(artifact.graph_text())
    for step in artifact.plan.steps():
        if step.backend == TRITON:
            yield artifact.launch(step.kernel), arguments_of(step, layer_of(graph, step))
    for name in LOOP_KERNELS:
        yield artifact.launch(name), ()


def as_made(artifact: Artifact, kernel: LaunchKernel) -> TritonKernel:
    """A kernel as the artifact has it, all of its launches side by side."""
    launches = [one for variant in kernel.variants for one in variant.launches]
    (text,) = {artifact.cubin(kernel.name, one.file).decode() for one in launches}
    variants = tuple(Variant(one.symbol, one.constants, one.grid) for one in launches)
    return TritonKernel(kernel.name, text, kernel.pointers, kernel.sizes, variants)


def both(fast: Sequence[Plan], full: Sequence[Plan]) -> list[Any]:
    """Plans of the fast tests, and more."""
    return [*fast, *(pytest.param(one, marks=pytest.mark.full) for one in full)]


@pytest.mark.parametrize("plan", both([LLAMA, MIXTRAL, INT4], OTHERS), ids=str)
def test_each_kernel_of_a_plan_asks_for_weights_and_waits(plan: Plan, tmp_path: Path) -> None:
    artifact = plan.compile(tmp_path, dependent_launch=True)
    sizes = {"T": 3, "S": 3, "R": 3, "P": 3, "K": 0}
    asking: dict[str, int] = {}
    for kernel, given in kernels_of(artifact):
        made = as_made(artifact, kernel)
        assert all(one.dependent for variant in kernel.variants for one in variant.launches)
        for function in {one.function for one in made.variants}:
            names = parameters_of(made.text, function)
            weights = [
                name for name, one in zip(names, given, strict=False) if one.kind is Kind.WEIGHT
            ]
            assert early_accesses(made, weights) == []
        # What is asked for lies in the weight, and nowhere else.
        asking[kernel.name] = 0
        for launch in (one for one in made.variants if given):
            for place, bytes_ in asked_by(made, launch, sizes):
                size = artifact.weights.stored(given[place].name).nbytes
                assert bytes_.min() >= 0
                assert bytes_.max() < size
                asking[kernel.name] += 1
    products = [name for name in asking if "linear" in name]
    assert products
    assert all(asking[name] for name in products), f"{asking}: each product has a weight"
    assert not any(asking[name] for name in LOOP_KERNELS)


def test_kernels_of_other_plans_do_not_wait(tmp_path: Path) -> None:
    artifact = LLAMA.compile(tmp_path)
    for kernel, _ in kernels_of(artifact):
        text = as_made(artifact, kernel).text
        assert not any(one.dependent for variant in kernel.variants for one in variant.launches)
        assert WAIT not in text
        assert RELEASE not in text
        assert "prefetch" not in text


@pytest.mark.interpreted
@pytest.mark.parametrize("plan", both([INT4], [LLAMA, MIXTRAL]), ids=str)
def test_tokens_are_the_same(plan: Plan, tmp_path: Path) -> None:
    limits = SchedulerLimits(4, 12, 12, 48)
    prompts = [[5, 6, 7, 8, 9, 10, 11, 3, 4, 5, 9, 8, 7, 6], [3, 4]]
    found = []
    for options in ({}, {"dependent_launch": True}):
        executor = CudaExecutor(plan.compile(tmp_path, **options), InterpretedDevice(), limits)
        found.append(greedy_through_engine(executor, limits, prompts, 2))
        executor.close()
    assert found[0] == found[1]

"""A wrong kernel is called wrong, in the interpreter: values, guards, and a second run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
import torch

from benchmarks.gpu.ahead import title
from benchmarks.gpu.bench import Bench, fractions
from benchmarks.gpu.case import Case, Result, Source, Work
from benchmarks.gpu.check import check_case
from benchmarks.gpu.clock import HostClock
from benchmarks.gpu.launch import Interpreted, Runnable
from benchmarks.gpu.rates import Rates
from graphopt.codegen.triton.kernel import TritonKernel, Variant, named_kernel
from graphopt.ir.dtype import DType
from graphopt.ir.shape import sym

pytestmark = pytest.mark.interpreted
CPU = torch.device("cpu")
T = sym("T")
HEAD = "import triton\nimport triton.language as tl\n\n\n@triton.jit\n"
RIGHT = "tl.store(y_ptr + place, x + 1.0, mask=place < T)"
BODIES = {
    "right": RIGHT,
    "wrong": "tl.store(y_ptr + place, x * 1.5, mask=place < T)",
    "unwritten": "tl.store(y_ptr + place, x + 1.0, mask=place < T - 1)",
    "past the end": f"{RIGHT}\n    tl.store(y_ptr + place + 1, x, mask=place == T - 1)",
    "counting": "n = tl.atomic_add(w_ptr.to(tl.pointer_type(tl.int32)), 1)\n"
    "    tl.store(y_ptr + place, x + 1.0 + 0.000001 * n, mask=place < T)",
}


def kernel_of(body: str) -> TritonKernel:
    text = f"""{HEAD}def KERNEL_NAME(x_ptr, y_ptr, w_ptr, T, BLOCK: tl.constexpr):
    place = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + place, mask=place < T, other=0.0)
    {body}
"""
    few = Variant("KERNEL_NAME", {"BLOCK": 16}, (1,), {"T": 16})
    variants = [few, Variant("KERNEL_NAME", {"BLOCK": 64}, (1,))]
    return named_kernel("one", text, (DType.F32, DType.F32, None), ("T",), variants, workspace=4)


def case_of(body: str, tokens: int = 9) -> Case:
    def work(device: torch.device, seed: int) -> Work:
        x = torch.rand(tokens, generator=torch.Generator().manual_seed(seed)) + 1.0
        result = Result.poisoned("y", (tokens,), torch.float32, device)
        return Work({"x": x}, [x, result.tensor], [result], lambda: [x.double() + 1], {"T": tokens})

    return Case(
        "one",
        "row",
        {"T": tokens},
        lambda arch: kernel_of(body),
        work,
        flops=9.0,
        nbytes=72.0,
        eager=lambda given: given["x"] + 1,
        peers={"other": lambda work: lambda: work.tensors["x"] * 2},
    )


def test_right() -> None:
    found = check_case(case_of(RIGHT), kernel_of(RIGHT), Interpreted(), CPU)
    assert [outcome.variant for outcome in found] == [0, 1]
    assert all(outcome.is_right for outcome in found)
    (larger,) = check_case(case_of(RIGHT, 40), kernel_of(RIGHT), Interpreted(), CPU)
    assert larger.variant == 1


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ("wrong", "off by"),
        ("unwritten", "off by inf"),
        ("past the end", "past the end"),
        ("counting", "the second time"),
    ],
)
def test_wrong(body: str, problem: str) -> None:
    case = case_of(BODIES[body])
    for outcome in check_case(case, kernel_of(BODIES[body]), Interpreted(), CPU):
        assert problem in "; ".join(outcome.problems)
    row = Bench(CPU, [Interpreted()], HostClock(), 2, compiles_peers=False).run(case)
    assert row["status"] == "wrong"
    assert problem in row["reason"]
    assert "times" not in row


class Second(Interpreted):
    """As if the first variant that fits were not the one that ships."""

    def __init__(self) -> None:
        self.prepared: list[Variant] = []

    def picked(
        self, kernel: TritonKernel, sizes: Mapping[str, int], source: Source | None
    ) -> Variant:
        return kernel.variants[1]

    def prepare(
        self,
        kernel: TritonKernel,
        variant: Variant,
        pointers: Sequence[torch.Tensor],
        sizes: Mapping[str, int],
    ) -> Runnable:
        self.prepared.append(variant)
        return super().prepare(kernel, variant, pointers, sizes)


def test_the_variant_that_is_picked_is_timed() -> None:
    launcher, kernel = Second(), kernel_of(RIGHT)
    row = Bench(CPU, [launcher], HostClock(), 2, compiles_peers=False).run(case_of(RIGHT))
    assert launcher.prepared == [*kernel.variants, kernel.variants[1]]  # all are checked first
    assert row["variant"] == [title(kernel.variants[1])]
    assert set(row["times"]) == {"graphopt", "torch"}
    both = Bench(CPU, [launcher], HostClock(), 2, compiles_peers=False, all_variants=True)
    assert set(both.run(case_of(RIGHT))["times"]) == {"graphopt", "graphopt variant 0", "torch"}
    assert launcher.prepared[-2:] == [kernel.variants[1], kernel.variants[0]]


def test_a_row_with_times() -> None:
    bench = Bench(CPU, [Interpreted()], HostClock(), 3, compiles_peers=False, all_variants=True)
    row = bench.run(case_of(RIGHT))
    assert row["status"] == "right"
    assert set(row["times"]) == {"graphopt", "graphopt variant 1", "torch"}
    assert len(row["times"]["torch"]["samples_us"]) == 3
    assert row["peers"]["torch"]["status"] == "right"
    assert row["peers"]["other"]["status"] == "wrong"  # it computes something else
    ours = row["times"]["graphopt"]["median_us"] / 1e6
    parts = fractions(row, Rates(72.0 / ours, 1e30))
    assert parts["of_copy"] == pytest.approx(1.0)
    assert parts["of_bound"] == pytest.approx(1.0)

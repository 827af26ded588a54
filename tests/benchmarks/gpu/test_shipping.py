"""What is timed is what an artifact launches: its variant, its options, its cubins."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
import torch

from benchmarks.gpu import shipping
from benchmarks.gpu.ahead import made_kernel
from benchmarks.gpu.case import Case
from benchmarks.gpu.shipping import Shipping
from benchmarks.gpu.worker import named_cases
from graphopt.codegen.triton.autotune import Tuned, choice_of, key_of, tuned_for
from graphopt.codegen.triton.buckets import buckets_of
from graphopt.codegen.triton.choosing import Choosing
from graphopt.codegen.triton.compile import Cubin, compile_variant, options_of
from graphopt.codegen.triton.kernel import TritonKernel, Variant, kernel_called
from graphopt.codegen.triton.worker import Built
from graphopt.errors import CompileError
from graphopt.ir.graph import Graph
from graphopt.ir.reference import torch_dtype
from graphopt.launch import Launch

ARCH = 90
BUILT = Built(b"", "f", 128, 0, 0, 1, 40, 0, 12, 3, 0, False, ())


def told(kernel: TritonKernel, launch: Variant) -> Built:
    """A cubin that says which launch it is of."""
    code = f"{kernel.name} {replace(launch, below={}, then=())}".encode()
    return replace(BUILT, code=code, symbol=launch.function)


def flawed_first(kernel: TritonKernel, launch: Variant) -> Built:
    """The same, and of alternatives the first spills."""
    firsts = [one.candidates[0] for one in buckets_of(kernel.variants) if len(one.candidates) > 1]
    is_first = any(
        replace(launch, below={}) == _alone(one) for way in firsts for one in way.launches
    )
    return replace(told(kernel, launch), problems=("it spills",) if is_first else ())


def _alone(launch: Variant) -> Variant:
    return replace(launch, below={}, then=())


@cache
def kernels() -> list[tuple[str, Case, TritonKernel]]:
    """Every case that has a kernel."""
    made = {name: (case, made_kernel(case, ARCH).kernel) for name, case in named_cases().items()}
    return [(name, case, kernel) for name, (case, kernel) in made.items() if kernel is not None]


def shipped(case: Case, kernel: TritonKernel, build: object) -> tuple[Launch, ...]:
    """What an artifact launches for the case's sizes: everything is compiled, without bounds."""
    graph, region = case.source or (Graph("none", (), (), (), ()), None)
    choosing = Choosing(kernel, graph, region, {}, tuned_for(ARCH))
    while wanted := choosing.wanted():
        for one in wanted:
            built = tuple(build(kernel, launch) for launch in one.variant.launches)  # type: ignore[operator]
            choosing.built[repr(one.variant)] = built
        choosing.settle()
    return choosing.compiled("sm_90").kernel.variant(case.sizes).launches


@pytest.mark.parametrize("build", [told, flawed_first])
def test_what_is_timed_is_what_ships(monkeypatch: pytest.MonkeyPatch, build: object) -> None:
    """Of every case of the suite, with cubins that are all sound, and with some that are not."""
    monkeypatch.setattr(shipping, "build", lambda kernel, launch, arch: build(kernel, launch))  # type: ignore[operator]
    others = 0
    for name, case, kernel in kernels():
        timed = Shipping(ARCH)
        picked = timed.variant(kernel, case.sizes, case.source)
        others += picked != kernel.variant(case.sizes)
        alone, codes = timed.cubins(kernel, picked)
        wanted = shipped(case, kernel, build)
        if not wanted:  # a library computes it, and no kernel ships
            continue
        (variant,) = alone.variants
        for found, want in zip(variant.launches, wanted, strict=True):
            assert replace(found, file="") == replace(want, file=""), name
            launch = next(one for one in picked.launches if one.function == found.symbol)
            assert codes[found.file] == told(kernel, launch).code, name
            assert (want.warps, want.stages) == (launch.num_warps, launch.num_stages), name
    assert (others > 0) is (build is flawed_first)


def test_measurements_come_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shipping, "build", lambda kernel, launch, arch: told(kernel, launch))
    case, kernel = next(
        (case, kernel)
        for name, case, kernel in kernels()
        if name.startswith("real/linear") and case.sizes.get("T", 0) > 512
    )
    assert case.source is not None
    bucket = next(one for one in buckets_of(kernel.variants) if one.fits(case.sizes))
    measured = replace(bucket.candidates[-1], num_stages=5)
    choice = choice_of(kernel, measured, case.sizes, 10.0, 5.0)
    tuned = Tuned("some GPU", {key_of(kernel, *case.source, bucket): choice})
    monkeypatch.setattr(shipping, "tuned_for", lambda arch: tuned)
    assert Shipping(ARCH).variant(kernel, case.sizes, case.source) == measured
    library = replace(choice, library_micros=1.0)
    others = Tuned("some GPU", {key_of(kernel, *case.source, bucket): library})
    monkeypatch.setattr(shipping, "tuned_for", lambda arch: others)
    assert Shipping(ARCH).variant(kernel, case.sizes, case.source) == bucket.candidates[0]


def test_what_cannot_be_launched_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(kernel: TritonKernel, launch: Variant, arch: int) -> Built:
        raise CompileError("it does not compile", got="ptxas died")

    monkeypatch.setattr(shipping, "build", fails)
    _, case, kernel = kernels()[0]
    with pytest.raises(CompileError, match="ptxas died"):
        Shipping(ARCH).variant(kernel, case.sizes)


def test_the_options_are_those_of_the_cubin(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bound of registers, which is found while it compiles, too."""
    launch = Variant("f", num_warps=8, num_stages=2)
    kernel = kernel_called("f", "", (), (), [launch])
    cubin = Cubin(b"", "", "f", 256, 0, 0, 1, ARCH)
    for bound, wanted in ((None, {}), (168, {"maxnreg": 168})):
        found = replace(cubin, bound=bound)
        monkeypatch.setattr(shipping, "compile_variant", lambda *_, found=found: found)
        assert Shipping(ARCH).options(kernel, launch) == options_of(launch) | wanted


class NoDevice:
    """What Triton asks of a driver before it compiles for a launch."""

    def get_current_target(self) -> object:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", ARCH, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int = 0) -> int:
        return 0

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "small/rms_norm 3 x 96",
        "small/linear+glu 67 x 64 x 96",
        "small/W8A8 67 x 64 x 256, groups of 128",
    ],
)
def test_tritons_launcher_compiles_what_ships(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """The same assembly, but for where Triton's own files are."""
    import triton

    from benchmarks.gpu.launch import plain_function

    case, kernel = next((case, kernel) for named, case, kernel in kernels() if named == name)
    timed = Shipping(ARCH)
    memory = [
        torch.empty(64, dtype=torch_dtype(one) if one else torch.uint8) for one in kernel.pointers
    ]
    counts = [case.sizes[size] for size in kernel.sizes]
    monkeypatch.setattr(triton.runtime.driver, "_active", NoDevice())
    for launch in timed.variant(kernel, case.sizes, case.source).launches:
        given = {**launch.constants, **timed.options(kernel, launch)}
        grid = launch.programs(case.sizes)
        jit = plain_function(kernel, launch).warmup(*memory, *counts, grid=grid, **given)
        assert _code(jit.asm["ptx"]) == _code(compile_variant(kernel, launch, ARCH).ptx)


def _code(ptx: str) -> list[str]:
    return [line for line in ptx.splitlines() if not line.lstrip().startswith(".file")]

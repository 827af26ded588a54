"""The Triton backend: what it claims, what it compiles, and all or nothing for state."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest

import graphopt.codegen.triton.backend as module
import graphopt.codegen.triton.choosing as choosing
from graphopt.codegen.made import STRICT
from graphopt.codegen.triton.autotune import Key, Tuned, choice_of, key_of
from graphopt.codegen.triton.backend import TritonBackend
from graphopt.codegen.triton.buckets import buckets_of
from graphopt.codegen.triton.kernel import TritonKernel, Variant
from graphopt.codegen.triton.loop import loop_kernels
from graphopt.codegen.triton.worker import Built
from graphopt.errors import CompileError
from graphopt.ir.builder import GraphBuilder
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph
from graphopt.ir.shape import sym
from graphopt.ir.types import LayerState, StateType, TensorType
from graphopt.launch import LaunchKernel
from graphopt.ledger import Verdict, refuse
from graphopt.loop_kernels import LOOP_KERNELS
from graphopt.plan import TRITON, Piece, Step
from graphopt.region import Region, make_region
from tests.codegen.triton.kernels import copy_kernel
from tests.passes.models import lowered

T = sym("T")
BUILT = Built(b"code", "f", 128, 0, 0, 1, 40, 0, 12, 3, 0, False, ())


def small(rows: int = 2) -> tuple[Graph, list[Region]]:
    """Units one after the other, each a region."""
    b = GraphBuilder("small")
    x = b.input("x", TensorType(DType.F32, (T, 256)))
    for _ in range(rows):
        x = b.one("gelu", [x])
    graph = b.finish([x])
    return graph, [
        make_region(graph, [place], family="pointwise", name="gelu") for place in range(rows)
    ]


def pieces_of(backend: TritonBackend, graph: Graph, regions: Sequence[Region]) -> list[Piece]:
    steps = tuple(
        Step(TRITON, backend.emit(graph, region), region.nodes, (0,), (1,)) for region in regions
    )
    return [Piece("p0", steps, True, "")]


class Compiler:
    """Compiles nothing: each variant becomes what a test says."""

    def __init__(self, **outcomes: Any) -> None:
        self.outcomes = outcomes
        self.asked: list[list[str]] = []

    def __call__(self, requests: Sequence[Any], arch: int, **_: Any) -> list[Any]:
        names = [one.variant.function.removeprefix(one.kernel.name) for one in requests]
        self.asked.append(names)
        found = []
        for request, name in zip(requests, names, strict=True):
            code = f"{name} {request.variant.num_warps}".encode()
            outcome = self.outcomes.get(name.strip("_"), {})
            made = (
                outcome if not isinstance(outcome, dict) else replace(BUILT, code=code, **outcome)
            )
            many = len(request.variant.launches)
            found.append((made,) * many if isinstance(made, Built) else made)
        return found


def backend_of(
    monkeypatch: pytest.MonkeyPatch, variants: Sequence[Variant]
) -> tuple[TritonBackend, Graph, Region, TritonKernel]:
    """A backend whose only kernel has these variants."""
    kernel = replace(
        copy_kernel(),
        variants=tuple(
            replace(one, function=f"{copy_kernel().name}_{one.function}") for one in variants
        ),
    )
    monkeypatch.setattr(module, "kernel_of", lambda *_, **__: kernel)
    graph, (region,) = small(1)
    return TritonBackend(graph, [region], 16), graph, region, kernel


FEW, OTHER = Variant("few", below={"T": 16}), Variant("other", below={"T": 16})
MANY = Variant("many")


def picked(backend: TritonBackend, kernel: TritonKernel) -> list[tuple[str, str]]:
    variants = backend.launch(kernel.name).variants
    return [(one.bucket, one.launches[0].file) for one in variants]


def test_each_bucket_gets_the_models_pick(monkeypatch: pytest.MonkeyPatch) -> None:
    backend, graph, region, kernel = backend_of(monkeypatch, [FEW, OTHER, MANY])
    compiler = Compiler()
    monkeypatch.setattr(module, "build_all", compiler)
    backend.compile("sm_90", {})
    assert compiler.asked == [["_few", "_other", "_many"]]
    assert picked(backend, kernel) == [("T<=16", "0.cubin"), ("any", "1.cubin")]
    assert backend.claims(graph, region).reason == "sm_90: the model's pick for T<=16, any"
    files = backend.files(pieces_of(backend, graph, [region]))
    place = f"{kernel.name}/sm_90"
    assert set(files) == {
        f"{kernel.name}/kernel.py",
        *(f"{place}/{n}" for n in ("launch.json", "0.cubin", "1.cubin")),
    }
    assert files[f"{place}/0.cubin"] == b"_few 4"
    written = LaunchKernel.from_json(json.loads(files[f"{place}/launch.json"]))
    assert written == backend.launch(kernel.name)


def test_a_variant_with_a_problem_gives_way(monkeypatch: pytest.MonkeyPatch) -> None:
    backend, graph, region, kernel = backend_of(monkeypatch, [FEW, OTHER, MANY])
    compiler = Compiler(few={"problems": ("it spills",)}, many={"problems": ("it is slow",)})
    monkeypatch.setattr(module, "build_all", compiler)
    backend.compile("sm_90", {})
    files = backend.files(pieces_of(backend, graph, [region]))
    assert files[f"{kernel.name}/sm_90/0.cubin"] == b"_other 4"
    reason = backend.claims(graph, region).reason
    assert reason == "sm_90: the model's pick for T<=16; the model's pick, it is slow for any"


def test_what_does_not_fit_leaves_its_sizes_to_larger_bounds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    backend, graph, region, kernel = backend_of(
        monkeypatch, [FEW, OTHER, replace(MANY, function="all", below={"T": 64}), MANY]
    )
    compiler = Compiler(few={"programs": 0, "problems": ("too large",)}, other=refuse("no fp8"))
    monkeypatch.setattr(module, "build_all", compiler)
    # No step has more than 16 tokens, so only the first bucket is reached, until it is given up.
    backend.compile("sm_89", {"T": 16})
    assert compiler.asked == [["_few", "_other"], ["_all"]]
    assert [bucket for bucket, _ in picked(backend, kernel)] == ["T<=64"]
    reason = backend.claims(graph, region).reason
    assert reason == "sm_89: the model's pick for T<=64; none for T<=16: no fp8"


def test_a_kernel_that_does_not_run_costs_its_regions_theirs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    backend, graph, region, kernel = backend_of(monkeypatch, [FEW, MANY])
    monkeypatch.setattr(module, "build_all", Compiler(many=refuse("ptxas died")))
    assert backend.claims(graph, region).accepted
    backend.compile("sm_90", {})
    verdict = backend.claims(graph, region)
    assert verdict.reason == "its kernel does not run on this GPU: ptxas died"
    with pytest.raises(CompileError, match="has no kernel"):
        backend.emit(graph, region)
    with pytest.raises(CompileError, match="was not compiled"):
        backend.launch(kernel.name)


def test_what_was_measured_is_taken_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    backend, graph, region, kernel = backend_of(monkeypatch, [FEW, OTHER, MANY])
    bucket = buckets_of(kernel.variants)[0]
    fastest = replace(bucket.candidates[1], num_warps=8)
    key = key_of(kernel, graph, region, bucket)
    assert key == Key("copy", "f32[T, 256] -> f32[T, 256]", "T<=16")
    choices = {key: choice_of(kernel, fastest, {"T": 8}, 3.0, 1.5)}
    compiler = Compiler()
    monkeypatch.setattr(module, "build_all", compiler)
    backend.compile("sm_90", {}, Tuned("NVIDIA H200", choices))
    files = backend.files(pieces_of(backend, graph, [region]))
    assert files[f"{kernel.name}/sm_90/0.cubin"] == b"_other 8"
    reason = backend.claims(graph, region).reason
    assert reason == "sm_90: measured on NVIDIA H200 for T<=16; the model's pick for any"
    # A measurement of what the kernel no longer has is passed over.
    gone = {key: replace(choices[key], function="_gone")}
    backend.compile("sm_90", {}, Tuned("NVIDIA H200", gone))
    assert backend.claims(graph, region).reason == "sm_90: the model's pick for T<=16, any"


def test_what_a_library_computes_faster_is_not_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    backend, graph, region, kernel = backend_of(monkeypatch, [FEW, OTHER, MANY])
    few, many = buckets_of(kernel.variants)
    faster = choice_of(kernel, few.candidates[0], {"T": 8}, 100.0, 1.5, 80.0)
    tuned = Tuned("NVIDIA H200", {key_of(kernel, graph, region, few): faster})
    compiler = Compiler()
    monkeypatch.setattr(module, "build_all", compiler)
    # No library computes a region of this family.
    backend.compile("sm_90", {}, tuned)
    assert not any(one.library for one in backend.launch(kernel.name).variants)
    monkeypatch.setattr(choosing, "has_library", lambda region: True)
    compiler.asked.clear()
    backend.compile("sm_90", {}, tuned)
    assert compiler.asked == [["_many"]]
    said = "measured on NVIDIA H200: PyTorch 80.0 µs, the kernel 100.0 µs"
    assert backend.claims(graph, region).reason == (
        f"sm_90: {said} for T<=16; the model's pick for any"
    )
    first, last = backend.launch(kernel.name).variants
    assert (dict(first.below), first.launches, first.library) == ({"T": 16}, (), True)
    assert (first.origin, last.library) == (said, False)
    files = backend.files(pieces_of(backend, graph, [region]))
    place = f"{kernel.name}/sm_90"
    assert {name for name in files if name.endswith(".cubin")} == {f"{place}/0.cubin"}
    written = LaunchKernel.from_json(json.loads(files[f"{place}/launch.json"]))
    assert written == backend.launch(kernel.name)
    # A measurement beside a kernel that is gone says nothing of this one.
    gone = {key: replace(choice, function="_gone") for key, choice in tuned.choices.items()}
    backend.compile("sm_90", {}, Tuned("NVIDIA H200", gone))
    assert not any(one.library for one in backend.launch(kernel.name).variants)
    # All of its sizes.
    every = {
        key_of(kernel, graph, region, one): choice_of(
            kernel, one.candidates[0], {"T": 8}, 100.0, 1.5, 80.0
        )
        for one in (few, many)
    }
    compiler.asked.clear()
    backend.compile("sm_90", {}, Tuned("NVIDIA H200", every))
    assert compiler.asked == []
    assert all(one.library for one in backend.launch(kernel.name).variants)
    assert backend.claims(graph, region).reason == f"sm_90: {said} for T<=16, any"


def test_equal_regions_share_a_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    graph, regions = small(3)
    backend = TritonBackend(graph, regions, 16)
    assert len({backend.emit(graph, region) for region in regions}) == 1
    compiler = Compiler()
    monkeypatch.setattr(module, "build_all", compiler)
    backend.compile("sm_90", {})
    assert len(compiler.asked) == 1
    pieces = pieces_of(backend, graph, regions)
    (name,) = backend.sources(pieces)
    assert backend.sources(pieces)[name].startswith("# gelu")
    kernel = backend.kernel(regions[0])
    assert isinstance(kernel, TritonKernel)
    assert len(compiler.asked[0]) == len(kernel.variants)


def test_what_others_run_needs_nothing_here() -> None:
    graph, regions = small()
    backend = TritonBackend(graph, regions, 16)
    other = Piece("p", (Step("torch", "gelu", (1,), (0,), (1,)),), True, "")
    assert backend.sources([other]) == {}
    assert backend.files([other]) == {}
    assert backend.scratch_bytes([other]) == 0
    assert backend.workspaces([(TRITON, "gelu"), ("torch", "gelu")]) == (0, 0)


def test_a_defect_costs_a_kernel_and_fails_our_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    def defect(*_: object, **__: object) -> None:
        raise IndexError("list index out of range")

    monkeypatch.setattr(module, "kernel_of", defect)
    graph, regions = small()
    with pytest.raises(IndexError):
        TritonBackend(graph, regions, 16)
    monkeypatch.delenv(STRICT)
    verdict = TritonBackend(graph, regions, 16).claims(graph, regions[0])
    assert verdict.reason == "the code generator failed: IndexError: list index out of range"


def test_state_has_kernels_for_all_or_for_none(monkeypatch: pytest.MonkeyPatch) -> None:
    found = lowered("llama")
    states = [
        region
        for region in found.regions
        if any(isinstance(value.type, StateType) for value in region.inputs)
    ]
    asked: list[tuple[int, int]] = []

    def made(graph: Graph, region: Region, *, block_size: int, arch: int, **_: object) -> Any:
        if region.family != "attention":
            return copy_kernel(title=region.name)
        asked.append((block_size, arch))
        return refuse("not today")

    monkeypatch.setattr(module, "kernel_of", made)
    compiler = Compiler()
    monkeypatch.setattr(module, "build_all", compiler)
    backend = TritonBackend(found.graph, found.regions, 32, 80)
    backend.compile("sm_80", {})
    assert set(asked) == {(32, 80)}
    for region in found.regions:
        verdict = backend.claims(found.graph, region)
        assert verdict.accepted == (region not in states), region.name
        if region in states:
            assert "not today" in verdict.reason
    # What writes state is not even compiled; what runs between the steps is.
    names = {region.name for region in found.regions if region not in states}
    others = {copy_kernel(title=name).name for name in names}
    between = [
        one for one in loop_kernels(found.graph, 32).values() if not isinstance(one, Verdict)
    ]
    assert len(between) == len(LOOP_KERNELS)
    asked_between = sum(len(one.variants) for one in between)
    assert sum(map(len, compiler.asked)) == len(others) + asked_between


def decoder() -> tuple[Graph, list[Region]]:
    """A step with state and logits, and its only region."""
    b = GraphBuilder("decoder")
    b.input("kv", StateType("kv", (LayerState(1, 16, 16, DType.F32),)))
    logits = b.one("gelu", [b.input("x", TensorType(DType.F32, (sym("R"), 1000)))])
    graph = b.finish([logits])
    return graph, [make_region(graph, [0], family="pointwise", name="gelu")]


def test_what_runs_between_steps_is_compiled_with_them(monkeypatch: pytest.MonkeyPatch) -> None:
    graph, regions = decoder()
    backend = TritonBackend(graph, regions, 16)
    assert all(verdict.accepted for verdict in backend.loop.values())
    monkeypatch.setattr(module, "build_all", Compiler())
    backend.compile("sm_90", {"R": 64})
    pieces = pieces_of(backend, graph, regions)
    assert [*backend.sources(pieces)][1:] == list(LOOP_KERNELS)
    files = backend.files(pieces)
    for name in LOOP_KERNELS:
        assert backend.loop[name].reason == "sm_90: the model's pick for any"
        assert files[f"{name}/kernel.py"] == backend.sources(pieces)[name].encode()
        written = LaunchKernel.from_json(json.loads(files[f"{name}/sm_90/launch.json"]))
        assert written == backend.launch(name)
        assert written.name == name


def test_a_kernel_between_steps_that_does_not_run_is_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    graph, regions = decoder()
    backend = TritonBackend(graph, regions, 16)
    monkeypatch.setattr(module, "build_all", Compiler(prepare=refuse("ptxas died")))
    backend.compile("sm_90", {})
    assert backend.loop["sample"].reason == "its kernel does not run on this GPU: ptxas died"
    assert backend.loop["advance"].accepted
    files = backend.files(pieces_of(backend, graph, regions))
    assert {name.split("/")[0] for name in files} & set(LOOP_KERNELS) == {"take", "advance"}
    with pytest.raises(CompileError, match="was not compiled"):
        backend.launch("sample")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llama", "qwen2_moe"])
def test_small_decoders_need_no_pytorch(name: str) -> None:
    found = lowered(name)
    backend = TritonBackend(found.graph, found.regions, 16)
    refused = {
        region.name: verdict.reason
        for region in found.regions
        if not (verdict := backend.claims(found.graph, region)).accepted
    }
    assert refused == {}


@pytest.mark.slow
def test_every_variant_that_a_plan_can_reach_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRAPHOPT_CACHE", str(tmp_path))
    graph, regions = small()
    backend = TritonBackend(graph, regions, 16)
    most = {"R": 64, "P": 8}
    backend.compile("sm_90", most)
    files = backend.files(pieces_of(backend, graph, regions))
    for region in regions:
        kernel = backend.kernel(region)
        assert isinstance(kernel, TritonKernel)
        place = f"{kernel.name}/sm_90"
        written = LaunchKernel.from_json(json.loads(files[f"{place}/launch.json"]))
        for tokens, blocks in product((1, 2, 16, 17, 63, 64, 65, 1000, 70000), (1, 8)):
            sizes = {"T": tokens, "S": 1, "R": min(tokens, 64), "P": blocks}
            expected, found = kernel.variant(sizes), written.variant(sizes)
            assert dict(found.below) == dict(expected.below)
            assert not found.library  # nothing was measured
            for launch, wanted in zip(found.launches, expected.launches, strict=True):
                assert launch.symbol == wanted.function
                assert dict(launch.constants) == dict(wanted.constants)
                assert launch.counts(sizes) == wanted.programs(sizes)
                assert files[f"{place}/{launch.file}"].startswith(b"\x7fELF")

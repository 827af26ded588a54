"""The C++ backend: what it claims, the sources of a plan, and all or nothing for state."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

import graphopt.codegen.cpp.backend as module
from graphopt.codegen.cpp.backend import MAKERS, CppBackend
from graphopt.codegen.cpp.build import build
from graphopt.codegen.made import STRICT
from graphopt.errors import CompileError
from graphopt.ir.builder import GraphBuilder
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph
from graphopt.ir.shape import sym
from graphopt.ir.types import StateType, TensorType
from graphopt.isa import isa_named
from graphopt.ledger import refuse
from graphopt.plan import CPP, Piece, Step
from graphopt.region import FAMILIES, Region, make_region
from tests.passes.models import lowered

T = sym("T")


def small(dtype: DType = DType.F32) -> tuple[Graph, list[Region]]:
    """A norm, a linear map and a unit, each a region; the first two have one kernel each."""
    b = GraphBuilder("small")
    x = b.input("x", TensorType(dtype, (T, 8)))
    y = b.one("linear", [x, b.weight("w", TensorType(dtype, (4, 8)))])
    graph = b.finish([b.one("gelu", [y])])
    regions = [
        make_region(graph, [0], family="linear", name="linear"),
        make_region(graph, [1], family="pointwise", name="gelu"),
    ]
    return graph, regions


def pieces_of(backend: CppBackend, graph: Graph, regions: list[Region]) -> list[Piece]:
    kernels = [backend.emit(graph, region) for region in regions]
    workspaces = backend.workspaces([(CPP, kernel) for kernel in kernels])
    steps = tuple(
        Step(CPP, kernel, region.nodes, (0,), (1,), scope="model", workspace=workspace)
        for kernel, region, workspace in zip(kernels, regions, workspaces, strict=True)
    )
    return [Piece("p0", steps, True, "", "b0dy")]


def test_every_family_has_a_maker() -> None:
    assert MAKERS.keys() >= set(FAMILIES)


def test_sources_define_what_the_piece_calls() -> None:
    graph, regions = small()
    backend = CppBackend(graph, regions)
    assert all(backend.claims(graph, region).accepted for region in regions)
    pieces = pieces_of(backend, graph, regions)
    files = backend.sources(pieces)
    kernels = [step.kernel for step in pieces[0].steps]
    assert set(files) == {*kernels, "piece_b0dy", "sampler"}
    for kernel in kernels:
        assert f"void call_{kernel}(" in files[kernel]
        assert f"call_{kernel}, a + " in files["piece_b0dy"]
    assert "GOPT_SAMPLER(f32, float)" in files["sampler"]
    assert backend.scratch_bytes(pieces) % 64 == 0
    assert backend.scratch_bytes(pieces) > 0
    assert build(files, isa_named("portable"), flags=("-O0",))


def test_what_others_run_needs_nothing_here() -> None:
    graph, regions = small()
    backend = CppBackend(graph, regions)
    other = Piece("p", (Step("torch", "gelu", (1,), (0,), (1,)),), True, "", "else")
    assert backend.sources([other]) == {}
    assert backend.scratch_bytes([other]) == 0
    assert backend.workspaces([("torch", "gelu")]) == (0,)


def test_equal_regions_share_a_kernel() -> None:
    found = lowered("llama", "cpu")
    assert found.native is not None
    steps = [step for piece in found.pieces for step in piece.steps]
    files = found.native.sources(found.pieces)
    bodies = {piece.body for piece in found.pieces}
    assert len(files) == len({step.kernel for step in steps}) + len(bodies) + 1
    assert len({step.kernel for step in steps}) < len(steps)


def test_logits_of_another_type_have_no_sampler() -> None:
    b = GraphBuilder("integers")
    x = b.input("x", TensorType(DType.I64, (T, 8)))
    graph = b.finish([b.one("add", [x, x])])
    regions = [make_region(graph, [0], family="pointwise", name="add")]
    backend = CppBackend(graph, regions)
    assert "sampler" not in backend.sources(pieces_of(backend, graph, regions))


def test_a_family_without_a_template_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAKERS", {"linear": MAKERS["linear"]})
    graph, regions = small()
    backend = CppBackend(graph, regions)
    verdict = backend.claims(graph, regions[1])
    assert not verdict.accepted
    assert verdict.reason == "no template computes gelu"
    with pytest.raises(CompileError, match="no kernel"):
        backend.emit(graph, regions[1])


def test_state_has_kernels_for_all_or_for_none(monkeypatch: pytest.MonkeyPatch) -> None:
    found = lowered("llama", "cpu")
    states = [
        region
        for region in found.regions
        if any(isinstance(value.type, StateType) for value in region.inputs)
    ]
    families = {region.family for region in states}
    assert len(families) == 2, "writes and reads"
    without = {**MAKERS, "attention": lambda *_: refuse("not today")}
    monkeypatch.setattr(module, "MAKERS", without)
    backend = CppBackend(found.graph, found.regions)
    for region in found.regions:
        verdict = backend.claims(found.graph, region)
        assert verdict.accepted == (region not in states), region.name
        if region in states:
            assert "not today" in verdict.reason


NAMES = ["a*/b", "new\nline", "back\\", "int x;//", "ü²", "namespace", '"', "a.b.weight"]


def test_whatever_a_model_calls_its_parts_compiles() -> None:
    b = GraphBuilder("odd\nname\\")
    x = b.input("x", TensorType(DType.F32, (T, 8)))
    for name in NAMES:
        x = b.one("linear", [x, b.weight(name, TensorType(DType.F32, (8, 8)))])
    y = b.one("rms_norm", [x, b.weight("norm\\\n}", TensorType(DType.F32, (8,)))], {"eps": 1e-5})
    graph = b.finish([y])
    regions = [
        make_region(graph, [place], family="linear", name="linear", scope=f"{name}\nint y; {name}")
        for place, name in enumerate(NAMES)
    ]
    regions.append(make_region(graph, [len(NAMES)], family="row", name="norm", scope="a\\"))
    backend = CppBackend(graph, regions)
    (piece,) = pieces_of(backend, graph, regions)
    scopes = [region.scope for region in regions]
    steps = tuple(
        replace(step, scope=scope) for step, scope in zip(piece.steps, scopes, strict=True)
    )
    files = backend.sources([replace(piece, steps=steps)])
    assert not any(re.search(r"//.*\\$", text, re.MULTILINE) for text in files.values())
    assert build(files, isa_named("portable"), flags=("-O0", "-Werror=comment"))


def test_a_defect_costs_a_kernel_and_fails_our_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    graph, regions = small()

    def defect(*args: object) -> None:
        raise IndexError("list index out of range")

    monkeypatch.setattr(module, "MAKERS", {**MAKERS, "pointwise": defect})
    with pytest.raises(IndexError):
        CppBackend(graph, regions)
    monkeypatch.delenv(STRICT)
    backend = CppBackend(graph, regions)
    assert backend.claims(graph, regions[0]).accepted
    verdict = backend.claims(graph, regions[1])
    assert verdict.reason == "the code generator failed: IndexError: list index out of range"

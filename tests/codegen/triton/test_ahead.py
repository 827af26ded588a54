"""Many variants at once, each kept by its content, with no Triton where all of it is kept."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import graphopt.codegen.triton.ahead as module
from graphopt.codegen.triton.ahead import Request, build_all, demand_triton
from graphopt.codegen.triton.kernel import Variant, named_kernel
from graphopt.errors import MachineError
from graphopt.ir.dtype import DType
from graphopt.ledger import Verdict
from tests.codegen.triton.kernels import HEAD, copy_kernel


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GRAPHOPT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def no_compiler(*_: Any, **__: Any) -> None:
    raise AssertionError("something was compiled")


@pytest.mark.slow
def test_variants_are_compiled_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = copy_kernel(below={"T": 16})
    monkeypatch.setenv("TRITON_INTERPRET", "1")  # which is not for those who compile
    told: list[tuple[str, int, int]] = []
    requests = [Request(kernel, one) for one in (*kernel.variants, kernel.variants[0])]
    first = build_all(requests, 90, progress=lambda *now: told.append(now))
    assert [len(one) for one in first] == [1, 1, 1]
    assert first[0] == first[2] != first[1]
    assert told == [("compiling kernels for sm_90", done, 2) for done in range(3)]
    assert len(list((cache / "cubins").iterdir())) == 2
    # Again, now in another process's place: no Triton, no processes.
    monkeypatch.setattr(module, "_Process", no_compiler)
    monkeypatch.setitem(sys.modules, "triton", None)
    assert build_all(requests, 90) == first


def test_another_architecture_or_option_is_another_cubin(cache: Path) -> None:
    kernel = copy_kernel()
    wide = replace(kernel.variants[0], num_warps=8)
    files = {
        job.file
        for arch in (80, 90)
        for one in (kernel.variants[0], wide)
        for job in module._jobs_of(Request(kernel, one), arch, cache)
    }
    assert len(files) == 4
    grid = replace(kernel.variants[0], grid=(7,), below={"T": 3})
    assert module._jobs_of(Request(kernel, grid), 90, cache)[0].file in files


@pytest.mark.slow
def test_each_launch_of_a_variant_has_a_cubin(cache: Path) -> None:
    kernel = copy_kernel()
    second = replace(kernel.variants[0], num_warps=2)
    variant = replace(kernel.variants[0], then=(second,))
    (found,) = build_all([Request(kernel, variant)], 80)
    assert isinstance(found, tuple)
    assert [one.threads for one in found] == [128, 64]


@pytest.mark.slow
def test_what_does_not_compile_says_why_and_stops_nobody(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = f"{HEAD}def KERNEL_NAME(x_ptr, T):\n    tl.store(x_ptr, tl.no_such_thing(T))\n"
    broken = named_kernel("broken", text, (DType.F32,), ("T",), [Variant("KERNEL_NAME")])
    good = copy_kernel()
    requests = [Request(one, one.variants[0]) for one in (broken, good, broken)]
    for again in range(2):
        if again:  # why it does not compile is kept, too
            monkeypatch.setattr(module, "_Process", no_compiler)
        first, second, third = build_all(requests, 90, jobs=2)
        assert isinstance(first, Verdict)
        assert "no_such_thing" in first.reason
        assert third == first
        assert isinstance(second, tuple)


@pytest.mark.slow
def test_a_damaged_cubin_is_made_anew(cache: Path) -> None:
    kernel = copy_kernel()
    (first,) = build_all([Request(kernel, kernel.variants[0])], 90)
    (file,) = (cache / "cubins").iterdir()
    file.write_bytes(file.read_bytes()[:-100])
    assert build_all([Request(kernel, kernel.variants[0])], 90) == [first]


@pytest.mark.slow
def test_a_cache_that_cannot_be_written_is_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("GRAPHOPT_CACHE", str(tmp_path / "file"))
    kernel = copy_kernel()
    (found,) = build_all([Request(kernel, kernel.variants[0])], 90)
    assert isinstance(found, tuple)


def test_a_process_that_dies_is_named(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_WORKER", "raise SystemExit('out of memory')")
    kernel = copy_kernel()
    with pytest.raises(MachineError, match="died") as caught:
        build_all([Request(kernel, kernel.variants[0])], 90)
    assert caught.value.got == "out of memory"


def test_without_triton_it_says_how_to_get_it(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "triton_version", lambda: "none")
    with pytest.raises(MachineError, match="need Triton"):
        demand_triton()
    kernel = copy_kernel()
    with pytest.raises(MachineError, match="need Triton"):
        build_all([Request(kernel, kernel.variants[0])], 90)

"""Compiling C++: what comes out works, is kept by content, and a failure says where."""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import graphopt.codegen.cpp.build as module
from graphopt.codegen.cpp.build import Compiler, build, compiler_version, find_compiler
from graphopt.errors import CompileError, MachineError
from graphopt.isa import host_isa, isa_named

SOURCE = 'extern "C" __attribute__((visibility("default"))) int answer() { return 40 + TWO; }\n'
PORTABLE = isa_named("portable")


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("GRAPHOPT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "objects"


def loaded(data: bytes, tmp_path: Path) -> ctypes.CDLL:
    file = tmp_path / f"{len(list(tmp_path.iterdir()))}.so"
    file.write_bytes(data)
    return ctypes.CDLL(str(file))


def test_sources_become_one_object(tmp_path: Path, own_cache: Path) -> None:
    sources = {
        "one": "int two() { return 2; }\n",
        "other": "int two();\n" + SOURCE.replace("TWO", "two()"),
    }
    library = loaded(build(sources, host_isa()), tmp_path)
    assert library.answer() == 42
    assert len(list(own_cache.glob("*.o"))) == 2


def test_an_object_is_compiled_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = build({"one": SOURCE}, PORTABLE, flags=("-DTWO=2",))
    ran: list[str] = []
    real = module._run
    monkeypatch.setattr(
        module, "_run", lambda command, what: (ran.append(what), real(command, what))
    )
    assert build({"one": SOURCE}, PORTABLE, flags=("-DTWO=2",)) == first
    assert ran == ["linking"]
    other = build({"one": SOURCE}, PORTABLE, flags=("-DTWO=3",))
    assert ran == ["linking", "one", "linking"]
    assert loaded(other, tmp_path).answer() == 43


def test_headers_are_part_of_the_key(monkeypatch: pytest.MonkeyPatch, own_cache: Path) -> None:
    build({"one": SOURCE}, PORTABLE, flags=("-DTWO=2",))
    monkeypatch.setattr(module, "headers_digest", lambda: "others")
    build({"one": SOURCE}, PORTABLE, flags=("-DTWO=2",))
    assert len(list(own_cache.glob("*.o"))) == 2


def test_a_failure_names_the_source(own_cache: Path) -> None:
    with pytest.raises(CompileError, match="fails at broken") as caught:
        build({"broken": "int f( {"}, PORTABLE)
    assert "broken.cpp:1" in str(caught.value)
    assert not list(own_cache.iterdir())


def test_a_compiler_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    script = executable(tmp_path / "slow", "exec sleep 60")
    monkeypatch.setattr(module, "_TIMEOUT_S", 0.2)
    with pytest.raises(CompileError, match="does not come to an end with one"):
        build({"one": SOURCE}, PORTABLE, compiler=Compiler((str(script),), "slow"))


def executable(path: Path, body: str) -> Path:
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def test_without_a_compiler_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    find_compiler.cache_clear()
    try:
        assert find_compiler() is None
        with pytest.raises(MachineError, match="no C\\+\\+ compiler"):
            build({"one": SOURCE}, PORTABLE)
    finally:
        find_compiler.cache_clear()


@pytest.mark.parametrize("body", ["exit 1", "echo it makes no file", "kill -9 $$", "sleep 60"])
def test_a_compiler_that_cannot_is_passed_over(
    body: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_PROBE_TIMEOUT_S", 0.5)
    assert find_compiler(str(executable(tmp_path / f"cxx{len(body)}", body))) is None


@pytest.mark.parametrize("name", ["no-such-compiler", "/", "/etc/passwd", '"', " ", "true", "cat"])
def test_what_is_no_compiler_is_passed_over(name: str) -> None:
    assert find_compiler(name) is None


def test_a_program_that_cannot_start_is_passed_over(tmp_path: Path) -> None:
    file = tmp_path / "not-a-program"
    file.write_bytes(b"\x7fELF and no more")
    file.chmod(0o755)
    assert find_compiler(str(file)) is None


def test_what_the_environment_names_must_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    find_compiler.cache_clear()
    try:
        with pytest.raises(MachineError, match="CXX names is no compiler"):
            find_compiler()
        assert compiler_version() == "none"
    finally:
        find_compiler.cache_clear()


def test_the_version_is_that_of_the_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CXX", raising=False)
    found = find_compiler()
    assert found is not None
    assert compiler_version() == found.version


@pytest.mark.parametrize("at", ["-c", "-shared"])
@pytest.mark.parametrize(
    ("does", "message"),
    [
        ("kill -9 $$", "killed at"),
        ("echo 'g++: fatal error: Killed signal terminated program cc1plus' >&2; exit 1", "killed"),
        ("echo 'fatal error: x.s: No space left on device' >&2; exit 1", "no disk space"),
    ],
)
def test_what_is_not_the_sources_fault(
    tmp_path: Path, own_cache: Path, at: str, does: str, message: str
) -> None:
    real = find_compiler()
    assert real is not None
    loop = f'for one in "$@"; do if [ "$one" = {at} ]; then {does}; fi; done'
    body = f'{loop}; exec {real.command[0]} "$@"'
    script = executable(tmp_path / "cxx", body)
    with pytest.raises(MachineError, match=message):
        build({"one": SOURCE}, PORTABLE, flags=("-DTWO=2",), compiler=Compiler((str(script),), "x"))
    assert not list(own_cache.glob(".build-*"))
    assert build({"one": SOURCE}, PORTABLE, flags=("-DTWO=2",))


def test_a_cache_that_cannot_be_written_is_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("GRAPHOPT_CACHE", str(tmp_path / "file"))
    assert loaded(build({"one": SOURCE}, PORTABLE, flags=("-DTWO=2",)), tmp_path).answer() == 42
    monkeypatch.setenv("GRAPHOPT_CACHE", "/proc/no/such/place")
    assert build({"one": SOURCE}, PORTABLE, flags=("-DTWO=2",))


def test_a_temporary_folder_that_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "missing"))
    monkeypatch.setattr("tempfile.tempdir", None)
    assert build({"one": SOURCE}, PORTABLE, flags=("-DTWO=2",))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "missing"))
    with pytest.raises(MachineError, match="cannot be compiled here"):
        build({"one": SOURCE}, PORTABLE, flags=("-DTWO=3",))


def test_a_full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, text: str) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(MachineError, match="cannot be compiled here") as caught:
        build({"one": SOURCE}, PORTABLE, flags=("-DTWO=2",))
    assert caught.value.got == "No space left on device"


def test_a_damaged_object_is_made_again(own_cache: Path) -> None:
    first = build({"one": SOURCE}, PORTABLE, flags=("-DTWO=2",))
    (kept,) = own_cache.glob("*.o")
    kept.write_bytes(b"")
    assert build({"one": SOURCE}, PORTABLE, flags=("-DTWO=2",)) == first
    kept.write_bytes(b"damaged")
    with pytest.raises(CompileError, match="fails at linking"):
        build({"one": SOURCE}, PORTABLE, flags=("-DTWO=2",))
    assert build({"one": SOURCE}, PORTABLE, flags=("-DTWO=2",)) == first


def test_two_at_once_share_the_cache(own_cache: Path, tmp_path: Path) -> None:
    sources = {f"s{n}": SOURCE.replace("answer", f"answer{n}") for n in range(3)}
    with ThreadPoolExecutor(4) as pool:
        jobs = [pool.submit(build, sources, PORTABLE, flags=("-DTWO=2", "-O0")) for _ in range(4)]
        (data,) = {job.result() for job in jobs}
    assert loaded(data, tmp_path).answer2() == 42
    assert len(list(own_cache.iterdir())) == 3


def test_the_compiler_can_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = find_compiler()
    assert plain is not None
    monkeypatch.setenv("CXX", f"{plain.command[0]} -DTWO=2")
    find_compiler.cache_clear()
    try:
        named = find_compiler()
        assert named is not None
        assert named.command == (plain.command[0], "-DTWO=2")
        assert build({"one": SOURCE}, PORTABLE)
    finally:
        find_compiler.cache_clear()
    assert os.environ["CXX"]


@pytest.mark.parametrize("name", ["-x", "@x", 'it\'s "a" $HOME', "new\nline", "ü ²", "back\\"])
def test_wherever_the_cache_is(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GRAPHOPT_CACHE", name)
    assert build({"one": SOURCE}, PORTABLE, flags=("-DTWO=2",))
    assert len(list(Path(name, "objects").iterdir())) == 1

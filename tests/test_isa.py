"""Which instruction sets there are, and which of them run here."""

from __future__ import annotations

from pathlib import Path

import pytest

import graphopt.isa as module
from graphopt.errors import MachineError, UsageError
from graphopt.isa import ISAS, host_isa, host_isas, isa_named, isas_of

LINES = "processor : 0\nflags\t\t: fpu avx2 fma f16c bmi2\nflags : none\n"


@pytest.fixture(autouse=True)
def read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    module.host_features.cache_clear()
    monkeypatch.delenv(module.FORCE, raising=False)


def with_cpu(monkeypatch: pytest.MonkeyPatch, path: Path, text: str) -> None:
    path.write_text(text)
    monkeypatch.setattr(module, "CPUINFO", path)
    monkeypatch.setattr(module.platform, "machine", lambda: "x86_64")


def test_the_best_comes_first_and_portable_runs_everywhere() -> None:
    assert [isa.name for isa in ISAS] == ["avx512", "avx2", "portable"]
    assert host_isas()[-1].name == "portable"
    assert host_isa() is host_isas()[0]


def test_features_are_those_of_the_first_cpu(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with_cpu(monkeypatch, tmp_path / "cpuinfo", LINES)
    assert [isa.name for isa in host_isas()] == ["avx2", "portable"]


@pytest.mark.parametrize("text", ["", "flags:", "model name: x\n"])
def test_a_cpu_that_says_nothing_runs_what_is_portable(
    text: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with_cpu(monkeypatch, tmp_path / "cpuinfo", text)
    assert [isa.name for isa in host_isas()] == ["portable"]


def test_other_machines_run_what_is_portable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.platform, "machine", lambda: "aarch64")
    assert host_isa().name == "portable"


def test_an_absent_file_is_no_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "CPUINFO", tmp_path / "none")
    monkeypatch.setattr(module.platform, "machine", lambda: "x86_64")
    assert host_isa().name == "portable"


def test_the_environment_chooses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(module.FORCE, "portable")
    assert host_isa().name == "portable"


def test_what_the_cpu_lacks_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with_cpu(monkeypatch, tmp_path / "cpuinfo", LINES)
    monkeypatch.setenv(module.FORCE, "avx512")
    with pytest.raises(MachineError, match="cannot run avx512") as caught:
        host_isa()
    assert "avx512_bf16" in str(caught.value)


def test_an_unknown_name_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(module.FORCE, "sse9")
    with pytest.raises(UsageError, match="unknown instruction set"):
        host_isa()


def test_what_an_artifact_is_compiled_for() -> None:
    assert isas_of("", "host") == (host_isa(),)
    assert isas_of("avx2", "host") == (isa_named("avx2"),)
    assert isas_of("", "all") == isas_of("avx2", "all") == ISAS

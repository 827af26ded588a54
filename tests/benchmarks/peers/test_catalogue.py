"""Peers are found where they are installed, and called absent where they are not."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks.peers.catalogue import KINDS, PRECISIONS, find_peers
from benchmarks.peers.worker import ENGINES


def test_every_kind_has_an_adapter() -> None:
    on_a_cpu = {name for name in ENGINES if not name.startswith("gpu_")}
    assert {kind.engine for kind in KINDS.values()} == on_a_cpu
    assert all(set(kind.models) <= set(PRECISIONS) for kind in KINDS.values())


def test_what_is_not_installed_is_absent_with_the_reason(tmp_path: Path) -> None:
    peers = {one.name: one for one in find_peers(tmp_path, "tiny", "bf16")}
    assert peers["graphopt"].absent == ""  # it is compiled when it is wanted
    assert peers["graphopt"].python == Path(sys.executable)
    assert "environment is not installed" in peers["llama.cpp"].absent
    assert "model was not made" in peers["hf-eager"].absent
    assert "onnxruntime" not in peers  # which has 4 bits only here


def test_what_is_installed_is_present(tmp_path: Path) -> None:
    python = tmp_path / "environments" / "llama.cpp" / "bin" / "python"
    model = tmp_path / "models" / "tiny" / "q8_0.gguf"
    for file in (python, model):
        file.parent.mkdir(parents=True)
        file.touch()
    (peer,) = find_peers(tmp_path, "tiny", "int8", ["llama.cpp"])
    assert (peer.absent, peer.python, peer.model) == ("", python, model)
    (without,) = find_peers(tmp_path, "tiny", "int4", ["llama.cpp"])
    assert "model was not made" in without.absent


def test_an_unknown_engine_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown engine 'nobody'"):
        find_peers(tmp_path, "tiny", "bf16", ["nobody"])

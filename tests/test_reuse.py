"""What is there is taken if it is the same and whole, and a copy shares only its weight files."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest

import graphopt.reuse as reuse_module
from graphopt.artifact import read_artifact, write_artifact
from graphopt.errors import ArtifactError, MachineError
from graphopt.reuse import copy_artifact, reusable, reused
from tests.test_artifact import contents

FACTORS = dict(contents().factors)


@pytest.fixture
def written(tmp_path: Path) -> Path:
    path = tmp_path / "a.gopt"
    write_artifact(path, contents())
    return path


def newer(path: Path) -> None:
    """Give a file a time after that of its manifest."""
    later = path.stat().st_mtime_ns + 10**12
    os.utime(path, ns=(later, later))


def test_the_same_factors(written: Path, tmp_path: Path) -> None:
    found = reusable(written, FACTORS)
    assert found is not None
    assert found.path == written
    assert reusable(written, {**FACTORS, "dtype": "other"}) is None
    assert reusable(tmp_path / "absent", FACTORS) is None


def test_digests_are_compared_when_a_file_is_newer_than_its_manifest(
    written: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []

    def read(path: Path, *, check_digests: bool = True) -> object:
        asked.append(check_digests)
        return read_artifact(path, check_digests=check_digests)

    monkeypatch.setattr(reuse_module, "read_artifact", read)
    assert reusable(written, FACTORS) is not None
    assert asked == [False]
    newer(written / "graph.ir")
    assert reusable(written, FACTORS) is not None
    assert asked == [False, False, True]


@pytest.mark.parametrize("name", ["plan.json", "weights/weights-0000.safetensors"])
def test_damage_counts_as_absence(written: Path, name: str) -> None:
    data = bytearray((written / name).read_bytes())
    data[-2] ^= 1
    (written / name).write_bytes(data)
    newer(written / name)
    assert reusable(written, FACTORS) is None
    (written / name).unlink()
    assert reusable(written, FACTORS) is None


def test_a_copy_shares_weights_and_nothing_else(written: Path, tmp_path: Path) -> None:
    place = tmp_path / "deep/b.gopt"
    copy_artifact(read_artifact(written), place)
    assert read_artifact(place).manifest == read_artifact(written).manifest
    weights = "weights/weights-0000.safetensors"
    assert (place / weights).samefile(written / weights)
    assert not (place / "graph.ir").samefile(written / "graph.ir")
    assert reusable(place, FACTORS) is not None
    # One written anew leaves the other as it was.
    write_artifact(place, contents())
    assert not (place / weights).samefile(written / weights)
    shutil.rmtree(place)
    read_artifact(written)


def test_without_hard_links_the_bytes_are_copied(
    written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    copy_artifact(read_artifact(written), tmp_path / "b.gopt")
    weights = "weights/weights-0000.safetensors"
    assert not (tmp_path / "b.gopt" / weights).samefile(written / weights)
    assert reusable(tmp_path / "b.gopt", FACTORS) is not None


def test_what_is_in_the_way_stays(
    written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "mine.txt").write_text("x")
    with pytest.raises(ArtifactError, match="not an artifact"):
        copy_artifact(read_artifact(written), other)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shutil, "copy2", full)
    with pytest.raises(MachineError, match="cannot be copied"):
        copy_artifact(read_artifact(written), tmp_path / "b.gopt")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.gopt", "other"]


def test_out_of_the_cache_or_because_it_is_there(written: Path, tmp_path: Path) -> None:
    place = tmp_path / "b.gopt"
    assert reused(place, tmp_path / "absent", FACTORS) is None
    for cached in (written, tmp_path / "absent"):  # copied once, then there
        found = reused(place, cached, FACTORS)
        assert found is not None
        assert found.path == place
    assert reused(written, written, {"other": "factors"}) is None

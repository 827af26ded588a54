"""Artifacts are written whole, read back equal, and say which file is damaged."""

import json
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graphopt import artifact as artifact_module
from graphopt.artifact import Contents, ModelInfo, read_artifact, writable_place, write_artifact
from graphopt.errors import ArtifactError, MachineError
from graphopt.ir.dtype import DType
from graphopt.ledger import Ledger, accept, refuse
from tests.test_plan import small_plan

ARRAYS = {
    "table": (DType.BF16, np.arange(12, dtype=np.uint16).reshape(3, 4)),
    "odd": (DType.U8, np.arange(7, dtype=np.uint8)),
    "scale": (DType.F32, np.array(2.5, dtype=np.float32)),
    "mask": (DType.BOOL, np.array([True, False, True])),
    "nothing": (DType.F32, np.zeros((0, 5), dtype=np.float32)),
}


def contents() -> Contents:
    ledger = Ledger()
    ledger.record("fuse", "layer 0", accept("it fits", saves_bytes=64))
    ledger.record("fuse", "layer 1", refuse("it does not", "%3", "%4"))
    return Contents(
        plan=small_plan(),
        graph_text="graph @tiny() {\n}\n",
        ledger=ledger,
        model=ModelInfo("tiny", "TinyForCausalLM", "tiny", 12, ("a note",)),
        weights=[(name, dtype, array.shape) for name, (dtype, array) in ARRAYS.items()],
        weight_arrays=(array for _, array in ARRAYS.values()),
        tokenizer_files={"tokenizer.json": b"{}"},
        generation_defaults={"temperature": 0.5},
        versions={"torch": "2.13"},
        factors={"dtype": "bfloat16"},
    )


@pytest.fixture
def written(tmp_path: Path) -> Path:
    path = tmp_path / "model.gopt"
    write_artifact(path, contents())
    return path


def test_round_trip(written: Path) -> None:
    found = read_artifact(written)
    assert found.plan == small_plan()
    assert found.graph_text() == contents().graph_text
    assert found.ledger() == contents().ledger
    assert found.model == contents().model
    assert found.generation_defaults == {"temperature": 0.5}
    assert found.tokenizer_dir == written / "tokenizer"
    assert set(found.weights.names()) == set(ARRAYS)
    for name, (dtype, array) in ARRAYS.items():
        assert found.weights.dtype(name) is dtype
        assert np.array_equal(found.weights.view(name), array)
        assert found.weights.view(name).ctypes.data % 64 == 0 or array.size == 0
    with pytest.raises(ArtifactError, match="absent is not in"):
        found.weights.view("absent")


def test_written_weights_are_ordinary_safetensors(written: Path) -> None:
    from safetensors import safe_open

    with safe_open(written / "weights/weights-0000.safetensors", "np") as found:
        assert set(ARRAYS) <= set(found.keys())
        for name in ("odd", "scale", "mask", "nothing"):
            assert np.array_equal(found.get_tensor(name), ARRAYS[name][1])


def test_weights_are_split_over_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artifact_module, "MAX_WEIGHT_FILE_BYTES", 20)
    write_artifact(tmp_path / "a.gopt", contents())
    found = read_artifact(tmp_path / "a.gopt")
    assert len(list((tmp_path / "a.gopt/weights").iterdir())) > 1
    for name, (_, array) in ARRAYS.items():
        assert np.array_equal(found.weights.view(name), array)


def test_every_flipped_byte_names_its_file(written: Path) -> None:
    """One byte of every file, at several places, in turn; and every byte of the seals."""
    rng = np.random.default_rng()
    for file in sorted(p for p in written.rglob("*") if p.is_file()):
        name = file.relative_to(written).as_posix()
        good = file.read_bytes()
        every = len(good) if name.startswith("manifest") else 0
        places = range(every) if every else {0, len(good) - 1, *rng.integers(0, len(good), 8)}
        for place in places:
            bad = bytearray(good)
            bad[place] ^= int(rng.integers(1, 256))
            file.write_bytes(bad)
            with pytest.raises(ArtifactError, match="damaged") as caught:
                read_artifact(written)
            assert caught.value.what == f"the artifact is damaged: {name}"
        file.write_bytes(good)
    read_artifact(written)


def test_a_missing_or_cut_file_is_named(written: Path) -> None:
    for file in sorted(p for p in written.rglob("*") if p.is_file()):
        good = file.read_bytes()
        file.write_bytes(good[:-1])
        with pytest.raises(ArtifactError):
            read_artifact(written)
        file.unlink()
        with pytest.raises(ArtifactError, match=file.name):
            read_artifact(written)
        file.write_bytes(good)


def test_all_mismatches_are_listed(written: Path) -> None:
    with pytest.raises(ArtifactError) as caught:
        read_artifact(written, expect={"dtype": "float32", "target": "cuda:sm_90"})
    assert "dtype: artifact bfloat16, here float32" in str(caught.value)
    assert "target: artifact cpu, here cuda:sm_90" in str(caught.value)


def test_what_is_no_artifact_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "absent", tmp_path):
        with pytest.raises(ArtifactError, match="not an artifact"):
            read_artifact(path)


def test_replaces_an_artifact_but_nothing_else(written: Path, tmp_path: Path) -> None:
    write_artifact(written, contents())
    read_artifact(written)
    other = tmp_path / "precious"
    other.mkdir()
    (other / "thesis.txt").write_text("years of work")
    with pytest.raises(ArtifactError, match="not an artifact"):
        write_artifact(other, contents())
    assert (other / "thesis.txt").read_text() == "years of work"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.gopt", "precious"]


def test_a_failed_write_leaves_nothing_and_keeps_the_old(written: Path) -> None:
    import dataclasses

    broken = dataclasses.replace(contents(), weight_arrays=iter([np.zeros(1, np.uint8)]))
    with pytest.raises(ArtifactError, match="wrong size"):
        write_artifact(written, broken)
    read_artifact(written)
    assert [p.name for p in written.parent.iterdir()] == ["model.gopt"]


def test_what_a_killed_writer_left_is_removed(written: Path) -> None:
    pid = os.spawnlp(os.P_WAIT, "true", "true") or 2**22 + 1
    stale = written.with_name(f".model.gopt.tmp-{pid}-abc")
    alive = written.with_name(f".model.gopt.tmp-{os.getpid()}-abc")
    stale.mkdir()
    alive.mkdir()
    write_artifact(written, contents())
    assert not stale.exists()
    assert alive.exists()


def test_what_a_killed_writer_left_is_found_by_any_name(tmp_path: Path) -> None:
    path = tmp_path / "a[b]*.gopt"
    stale = path.with_name(f".{path.name}.tmp-{2**22 + 1}-abc")
    stale.mkdir()
    write_artifact(path, contents())
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_link_stays_and_what_it_leads_to_is_written(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    link = tmp_path / "model.gopt"
    link.symlink_to(tmp_path / "disk/v1.gopt")
    for _ in range(2):
        write_artifact(link, contents())
        assert link.is_symlink()
        read_artifact(tmp_path / "disk/v1.gopt")
    assert [p.name for p in (tmp_path / "disk").iterdir()] == ["v1.gopt"]


def test_writers_at_the_same_moment_leave_one_whole_artifact(tmp_path: Path) -> None:
    path = tmp_path / "a.gopt"
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: write_artifact(path, contents()), range(24)))
    read_artifact(path)
    assert [p.name for p in tmp_path.iterdir()] == ["a.gopt"]


def test_the_old_artifact_comes_back_if_it_cannot_be_replaced(
    written: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = Path.rename

    def fail(self: Path, target: Path) -> Path:
        if target == written and not self.name.endswith("-old"):
            raise PermissionError(13, "Permission denied")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(MachineError, match="cannot be written"):
        write_artifact(written, contents())
    monkeypatch.undo()
    read_artifact(written)
    assert [p.name for p in written.parent.iterdir()] == ["model.gopt"]


def test_places_that_cannot_be_written_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("x")
    circle = tmp_path / "circle"
    circle.symlink_to(circle)
    for path in (file / "a.gopt", circle, tmp_path / ("a" * 300), tmp_path / "a\0b"):
        with pytest.raises(MachineError, match="cannot be written"):
            writable_place(path)
    with pytest.raises(ArtifactError, match="not an artifact"):
        writable_place(file)
    assert writable_place(tmp_path / "new/a.gopt") == (tmp_path / "new/a.gopt").resolve()
    assert not any((tmp_path / "new").iterdir())


def test_a_full_disk_is_said_before_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(MachineError, match="disk space"):
        write_artifact(tmp_path / "a.gopt", contents())
    assert not list(tmp_path.iterdir())


def test_a_manifest_cannot_point_outside(written: Path) -> None:
    manifest = written / "manifest.json"
    data = manifest.read_bytes().replace(b'"plan.json"', b'"../plan.json"')
    manifest.write_bytes(data)
    (written / "manifest.json.blake3").write_bytes(artifact_module._seal(data))
    with pytest.raises(ArtifactError, match=r"damaged: manifest\.json"):
        read_artifact(written)


def reseal(folder: Path, change: Callable[[dict[str, Any]], object] = lambda _: None) -> None:
    """Write a manifest that fits the files as they are now, after ``change``."""
    manifest = folder / "manifest.json"
    data = json.loads(manifest.read_text())
    for name in data["files"]:
        data["files"][name] = artifact_module._entry(folder / name)
    change(data)
    text = json.dumps(data).encode()
    manifest.write_bytes(text)
    (folder / "manifest.json.blake3").write_bytes(artifact_module._seal(text))


@pytest.mark.parametrize("content", [b"", b"[" * 200_000, b"[5]", b"{", b"\xff\xfe", b"null"])
@pytest.mark.parametrize("name", ["plan.json", "ledger.json", "generation_config.json"])
def test_nonsense_under_a_right_seal_is_refused(written: Path, name: str, content: bytes) -> None:
    (written / name).write_bytes(content)
    reseal(written)

    def read_all() -> None:
        found = read_artifact(written)
        found.ledger()
        dict(found.generation_defaults)

    with pytest.raises(ArtifactError):
        read_all()


def test_a_graph_that_is_no_text_is_refused(written: Path) -> None:
    (written / "graph.ir").write_bytes(b"\xff")
    reseal(written)
    with pytest.raises(ArtifactError, match=r"graph\.ir"):
        read_artifact(written).graph_text()


@pytest.mark.parametrize("data", [b"[]", b"5", b"[" * 200_000, b"", b"\xff"])
def test_a_manifest_that_is_no_object_is_refused(written: Path, data: bytes) -> None:
    (written / "manifest.json").write_bytes(data)
    (written / "manifest.json.blake3").write_bytes(artifact_module._seal(data))
    with pytest.raises(ArtifactError, match=r"manifest\.json"):
        read_artifact(written)


def test_a_manifest_must_list_what_is_read(written: Path) -> None:
    reseal(written, lambda data: data["files"].pop("plan.json"))
    with pytest.raises(ArtifactError, match=r"manifest\.json") as caught:
        read_artifact(written)
    assert caught.value.got == "it does not list plan.json"


def test_a_file_that_may_not_be_read_is_named(
    written: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_bytes = Path.read_bytes

    def refuse_plan(self: Path) -> bytes:
        if self.name == "plan.json":
            raise PermissionError(13, "Permission denied")
        return read_bytes(self)

    monkeypatch.setattr(Path, "read_bytes", refuse_plan)
    with pytest.raises(ArtifactError, match=r"cannot be read: plan\.json"):
        read_artifact(written)


def test_pages_that_were_checked_are_the_weights(written: Path) -> None:
    checked, unchecked = read_artifact(written), read_artifact(written, check_digests=False)
    assert not unchecked.maps
    (mapped,) = checked.maps.values()
    for name in checked.weights.names():
        view = checked.weights.view(name)
        assert np.shares_memory(view, np.frombuffer(mapped, np.uint8)) or not view.size
        assert np.array_equal(view, unchecked.weights.view(name))


def test_weights_that_may_not_be_read_are_named(
    written: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = Path.open

    def refuse_weights(self: Path, mode: str = "r") -> Any:
        if self.suffix == ".safetensors":
            raise PermissionError(13, "Permission denied")
        return opened(self, mode)

    monkeypatch.setattr(Path, "open", refuse_weights)
    with pytest.raises(ArtifactError, match=r"cannot be read: weights/weights-0000"):
        read_artifact(written)


def test_where_no_thread_can_be_started(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(self: object, *given: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("threading.Thread.start", refused)
    with pytest.raises(MachineError, match="no thread can be started"):
        read_artifact(written)

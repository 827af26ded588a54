"""What is packed in parts comes out whole, without what is left out."""

from __future__ import annotations

import random
import zipfile
from pathlib import Path

from benchmarks.peers.pack_vllm import pack, unpack


def test_there_and_back(tmp_path: Path) -> None:
    noise = random.Random(0).randbytes(100_000)
    for name, files in {
        "a.whl": {"a/x.py": b"x = 1\n", "a/noise.bin": noise, "a/_flashmla.so": b"left out"},
        "b.whl": {"a/x.py": b"a second one of the same name", "b/y.py": b""},
    }.items():
        with zipfile.ZipFile(tmp_path / name, "w") as wheel:
            for file, data in files.items():
                wheel.writestr(file, data)
    parts = tmp_path / "parts"
    parts.mkdir()
    (parts / "part-99").write_bytes(b"of an earlier time")
    made = pack([tmp_path / "a.whl", tmp_path / "b.whl"], parts, part_bytes=30_000)
    assert [part.name for part in made] == ["part-00", "part-01", "part-02", "part-03"]
    assert sorted(parts.iterdir()) == made
    unpack(parts, tmp_path / "out")
    found = {
        str(file.relative_to(tmp_path / "out")): file.read_bytes()
        for file in (tmp_path / "out").rglob("*")
        if file.is_file()
    }
    assert found == {"a/x.py": b"x = 1\n", "a/noise.bin": noise, "b/y.py": b""}

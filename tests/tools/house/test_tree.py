"""What the checks get to see: real folders once, no caches, no data."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import pytest

from tools.house.tree import Checkout, python_files, texts


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in (
        "graphopt/__init__.py",
        "passes/__init__.py",
        "passes/match.py",
        "tests/test_x.py",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text('"""A module."""\n')
    (tmp_path / "graphopt" / "passes").symlink_to("../passes")
    return tmp_path


def test_a_linked_folder_is_read_once(root: Path) -> None:
    product = Checkout(root).product
    assert [str(source.path) for source in product] == [
        "graphopt/__init__.py",
        "passes/__init__.py",
        "passes/match.py",
    ]
    assert [source.module for source in product] == [
        ("graphopt",),
        ("graphopt", "passes"),
        ("graphopt", "passes", "match"),
    ]
    assert [source.package for source in product[1:]] == [("graphopt", "passes")] * 2


def test_caches_are_not_read(root: Path) -> None:
    cache = root / "passes" / "__pycache__"
    cache.mkdir()
    (cache / "old.py").write_text("")
    assert len(python_files(root, "passes")) == 2


def test_texts_leave_data_and_binaries_out(root: Path) -> None:
    data = root / "examples" / "demo-llama"
    data.mkdir(parents=True)
    (data / "config.json").write_text("{}")
    (root / "docs").mkdir()
    (root / "docs" / "guide.md").write_text("a guide")
    (root / "docs" / "flow.png").write_bytes(b"\x89PNG")
    (root / "Makefile").write_text("all:\n")
    found = dict(texts(root))
    assert found[PurePosixPath("docs/guide.md")] == "a guide"
    assert PurePosixPath("Makefile") in found
    assert not {"config.json", "flow.png"} & {path.name for path in found}

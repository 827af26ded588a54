"""Generated Python is a module once, in a file that errors can name."""

from __future__ import annotations

import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from graphopt.codegen.triton.load import load_module


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GRAPHOPT_CACHE", str(tmp_path))
    return tmp_path


def test_the_same_text_is_one_module(cache: Path) -> None:
    first = load_module("answer", "ANSWER = 42\n")
    assert first.ANSWER == 42
    assert load_module("answer", "ANSWER = 42\n") is first
    assert load_module("answer", "ANSWER = 43\n").ANSWER == 43
    assert Path(str(first.__file__)).parent == cache / "generated"
    assert not list(cache.rglob("*.tmp"))


def test_errors_point_at_lines_of_the_file() -> None:
    module = load_module("fault", "def fault():\n    return 1 / 0\n")
    with pytest.raises(ZeroDivisionError) as caught:
        module.fault()
    last = traceback.extract_tb(caught.value.__traceback__)[-1]
    assert (last.lineno, last.line) == (2, "return 1 / 0")


def test_a_module_that_fails_is_forgotten() -> None:
    for _ in range(2):
        with pytest.raises(NameError):
            load_module("broken", "x = undefined_name\n")


def test_a_damaged_file_is_written_anew(cache: Path) -> None:
    module = load_module("mended", "VALUE = 'whole'\n")
    file = Path(str(module.__file__))
    text = file.read_text()
    file.write_text("VALUE = 'dam")
    from graphopt.codegen.triton.load import _written

    assert _written(file.name, text).read_text() == text


def test_threads_may_write_the_same_file(cache: Path) -> None:
    texts = [f"VALUE = {number % 3}\n" for number in range(24)]
    with ThreadPoolExecutor(8) as pool:
        modules = list(pool.map(lambda text: load_module("raced", text), texts))
    assert [one.VALUE for one in modules] == [number % 3 for number in range(24)]

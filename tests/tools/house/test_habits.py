"""Each habit broken once, and found."""

from __future__ import annotations

import ast
from pathlib import Path, PurePosixPath

import pytest

from tools.house import habits
from tools.house.tree import Source


def source(text: str, path: str = "passes/a.py") -> Source:
    return Source(PurePosixPath(path), text, ast.parse(text))


def lines(count: int) -> str:
    return "x = 1\n" * count


def test_the_file_wall() -> None:
    assert list(habits.long_files([source(lines(600))])) == []
    assert list(habits.long_files([source(lines(601))])) == [
        "passes/a.py: 601 lines, the wall is 600"
    ]


@pytest.mark.parametrize("head", ["def f():", "async def f():", "class C:\n  def f(self):"])
def test_the_function_wall(head: str) -> None:
    def function(body: int) -> Source:
        return source(head + "\n" + "    x = 1\n" * body)

    assert list(habits.long_functions([function(59)])) == []
    assert len(list(habits.long_functions([function(60)]))) == 1


def test_docstrings() -> None:
    assert list(habits.without_docstring([source('"""Say it."""')])) == []
    assert list(habits.without_docstring([source("x = 1")])) == ["passes/a.py: no module docstring"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("def f(x):\n    assert x", "assert outside tests: raise a typed error"),
        ("try:\n    f()\nexcept:\n    pass", "bare except: name what is expected"),
        ("def f():\n    global x\n", "global: pass state instead"),
        ("\neval('1')", "eval(): find a safer way"),
        ("\nexec('1')", "exec(): find a safer way"),
    ],
)
def test_forbidden_statements(text: str, reason: str) -> None:
    (finding,) = habits.forbidden_statements([source(text)])
    assert finding.endswith(reason)
    assert finding.startswith("passes/a.py:")


def test_allowed_statements() -> None:
    text = "import ast\ntry:\n    ast.literal_eval('1')\nexcept ValueError:\n    model.eval()\n"
    assert list(habits.forbidden_statements([source(text)])) == []


@pytest.mark.parametrize("value", ["[]", "{}", "dict()", "set()", "defaultdict(list)"])
def test_module_registries(value: str) -> None:
    assert len(list(habits.module_registries([source(f"X = {value}")]))) == 1
    assert len(list(habits.module_registries([source(f"X: object = {value}")]))) == 1
    assert list(habits.module_registries([source(f"def f():\n    x = {value}")])) == []


def test_full_tables_are_no_registries() -> None:
    assert list(habits.module_registries([source("X = {'a': 1}\nY = [2]\nZ: int\n")])) == []


def test_a_test_beside_every_source(tmp_path: Path) -> None:
    sources = [
        source("", "graphopt/errors.py"),
        source("", "graphopt/ir/dtype.py"),
        source("", "runtime/engine.py"),
        source("", "runtime/__init__.py"),
    ]
    (tmp_path / "tests" / "ir").mkdir(parents=True)
    (tmp_path / "tests" / "ir" / "test_dtype.py").write_text("")
    assert list(habits.without_test(sources, tmp_path)) == [
        "graphopt/errors.py: no tests/test_errors.py",
        "runtime/engine.py: no tests/runtime/test_engine.py",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "import pytest\npytest.skip('later')",
        "import pytest\n@pytest.mark.skipif(True, reason='x')\ndef test(): ...",
        "from pytest import mark\n@mark.xfail\ndef test(): ...",
        "import pytest\nm = pytest.importorskip('m')",
        "import unittest\n@unittest.skipUnless(False, 'x')\ndef test(): ...",
        "from unittest import SkipTest",
    ],
)
def test_skips(text: str) -> None:
    found = source(text, "tests/passes/test_a.py")
    assert len(list(habits.skips([found], frozenset()))) == 1
    assert list(habits.skips([found], frozenset({"tests/passes/test_a.py"}))) == []


def test_other_uses_of_the_word_are_no_skips() -> None:
    text = "node.skip()\nskip = 3\npytest.mark.slow\n"
    assert list(habits.skips([source(text)], frozenset())) == []

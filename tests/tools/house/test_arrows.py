"""Each wrong arrow is found in a small house, and a right house is left in peace."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import PurePosixPath

import pytest

from tools.house import arrows
from tools.house.tree import Source

Check = Callable[[Sequence[Source]], Iterable[str]]

ROOMS = ("graphopt/__init__.py", "graphopt/errors.py", "graphopt/plan.py", "graphopt/api.py")
FOLDERS = ("graphopt/ir", "graphopt/frontend", "graphopt/cli", "passes", "codegen", "runtime")


def house(changed: Mapping[str, str]) -> list[Source]:
    """A house with files `a.py` and `b.py` in every folder; `changed` maps paths, without their
    suffix, to other texts."""
    inside = [f"{folder}/{file}.py" for folder in FOLDERS for file in ("__init__", "a", "b")]
    files = dict.fromkeys((*ROOMS, *inside), "")
    files.update({f"{path}.py": text for path, text in changed.items()})
    return [Source(PurePosixPath(name), text, ast.parse(text)) for name, text in files.items()]


RIGHT = house(
    {
        "graphopt/api": "from graphopt.frontend.a import x\nfrom graphopt.passes import b\n",
        "graphopt/cli/a": "from graphopt import api\nfrom .b import y\n",
        "passes/a": "from graphopt.ir import a\nfrom graphopt.plan import P\nfrom .b import z\n",
        "graphopt/plan": "import json\nfrom graphopt.ir.a import x\nimport graphopt.errors\n",
        "runtime/a": "import numpy\n\ndef f():\n    import torch\n",
    }
)

WRONG: list[tuple[Check, dict[str, str], str]] = [
    (
        arrows.wrong_arrows,
        {"graphopt/errors": "from graphopt.ir.a import x"},
        "graphopt/errors.py:1: arrow up: errors -> ir",
    ),
    (
        arrows.wrong_arrows,
        {"passes/a": "\nfrom graphopt.codegen import a"},
        "passes/a.py:2: arrow sideways: passes -> codegen",
    ),
    (
        arrows.wrong_arrows,
        {"passes/a": "from graphopt import frontend"},
        "passes/a.py:1: arrow sideways: passes -> frontend",
    ),
    (
        arrows.wrong_arrows,
        {"runtime/a": "def f():\n    from graphopt.passes.a import x"},
        "runtime/a.py:2: arrow sideways: runtime -> passes",
    ),
    (
        arrows.wrong_arrows,
        {
            "codegen/a": "from typing import TYPE_CHECKING\n"
            "if TYPE_CHECKING:\n    import graphopt.api"
        },
        "codegen/a.py:3: arrow up: codegen -> api",
    ),
    (
        arrows.wrong_arrows,
        {"runtime/a": "import importlib\nx = importlib.import_module('graphopt.frontend.a')"},
        "runtime/a.py:2: arrow sideways: runtime -> frontend",
    ),
    (
        arrows.wrong_arrows,
        {"graphopt/ir/a": "from ..plan import Plan"},
        "graphopt/ir/a.py:1: arrow up: ir -> plan",
    ),
    (
        arrows.wrong_arrows,
        {"graphopt/ir/a": "from .. import api"},
        "graphopt/ir/a.py:1: arrow up: ir -> api",
    ),
    (
        arrows.wrong_arrows,
        {"graphopt/ir/a": "from graphopt import compile"},
        "graphopt/ir/a.py:1: arrow up: ir -> graphopt",
    ),
    (
        arrows.wrong_arrows,
        {"graphopt/plan": "import graphopt.artifact", "graphopt/artifact": ""},
        "graphopt/plan.py:1: arrow sideways: plan -> artifact",
    ),
    (
        arrows.homeless,
        {"graphopt/attic": ""},
        "graphopt/attic.py: attic has no floor in tools/house/arrows.py",
    ),
    (
        arrows.bare_imports,
        {"graphopt/api": "from passes.a import x"},
        "graphopt/api.py:1: imports passes.a: say graphopt.passes.a",
    ),
    (
        arrows.wrong_spelling,
        {"passes/a": "from graphopt.passes.b import x"},
        "passes/a.py:1: graphopt.passes.b is of the same folder: import it relatively",
    ),
    (
        arrows.wrong_spelling,
        {"passes/a": "from ..plan import Plan"},
        "passes/a.py:1: relative import across folders: say graphopt.plan",
    ),
    (
        arrows.cycles,
        {"passes/a": "from .b import x", "passes/b": "from . import a"},
        "import cycle: graphopt.passes.a, graphopt.passes.b",
    ),
    (
        arrows.runtime_reaches_compiler,
        {"runtime/a": "from .b import x", "runtime/b": "def f():\n    import graphopt.passes.a"},
        "graphopt.runtime.a -> graphopt.runtime.b -> graphopt.passes.a",
    ),
    (
        arrows.runtime_reaches_compiler,
        {"runtime/a": "from graphopt.api import x", "graphopt/api": "import graphopt.codegen.a"},
        "graphopt.runtime.a -> graphopt.api -> graphopt.codegen.a",
    ),
    (
        arrows.heavy_imports,
        {"runtime/a": "from graphopt.plan import P", "graphopt/plan": "import torch.nn"},
        "graphopt.runtime.a -> graphopt.plan -> torch.nn",
    ),
    (
        arrows.heavy_imports,
        {"runtime/__init__": "from transformers import AutoTokenizer"},
        "graphopt.runtime.a -> graphopt.runtime -> transformers",
    ),
]


@pytest.mark.parametrize(
    "check", [check for check in dict.fromkeys(row[0] for row in WRONG)], ids=lambda c: c.__name__
)
def test_a_right_house_is_left_in_peace(check: Check) -> None:
    assert list(check(RIGHT)) == []


@pytest.mark.parametrize(("check", "changed", "expected"), WRONG, ids=[row[2] for row in WRONG])
def test_a_wrong_arrow_is_found(check: Check, changed: dict[str, str], expected: str) -> None:
    assert expected in list(check(house(changed)))


def test_a_cycle_that_waits_for_a_call_is_none() -> None:
    sources = house({"passes/a": "from .b import x", "passes/b": "def f():\n    from .a import y"})
    assert list(arrows.cycles(sources)) == []


def test_modules_made_for_torch_may_import_it() -> None:
    sources = house(
        {"graphopt/ir/reference": "import torch", "graphopt/frontend/a": "import torch"}
    )
    assert list(arrows.heavy_imports(sources)) == []
    light = arrows.light_modules(sources)
    assert "graphopt.ir.a" in light
    assert "graphopt.runtime" in light
    assert "graphopt.ir.reference" not in light

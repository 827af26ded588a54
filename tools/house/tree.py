"""A checkout as the checks see it: source files with their syntax trees, and every file of text."""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

# The folders with code, real ones only: graphopt/passes and its kind are links to the top level.
PRODUCT = ("graphopt", "passes", "codegen", "runtime")
AROUND = ("tools", "benchmarks", "examples")
TESTS = "tests"

TEXT_SUFFIXES = frozenset(
    (".py", ".md", ".toml", ".jinja", ".cpp", ".h", ".yml", ".yaml", ".sh", ".json", ".cfg", ".ini",
     ".html", ".css", ".js")
)  # fmt: skip
TEXT_NAMES = frozenset(("Makefile", "run", ".gitignore"))
MAX_TEXT_BYTES = 1_000_000
DATA_FOLDERS = frozenset(("examples/demo-llama",))  # a checkpoint and its corpus, not our prose


@dataclass(frozen=True, slots=True)
class Source:
    """One Python file.

    Args:
        path: relative to the checkout.
        text: what it holds.
        syntax: its syntax tree.
    """

    path: PurePosixPath
    text: str
    syntax: ast.Module

    @property
    def module(self) -> tuple[str, ...]:
        """The name it is imported by: passes/match.py is `graphopt.passes.match`."""
        parts = self.path.with_suffix("").parts
        if parts[0] in PRODUCT[1:]:
            parts = ("graphopt", *parts)
        return parts[:-1] if parts[-1] == "__init__" else parts

    @property
    def package(self) -> tuple[str, ...]:
        """The package that its relative imports start from."""
        return self.module if self.path.name == "__init__.py" else self.module[:-1]


@dataclass(frozen=True)
class Checkout:
    """A checkout, each part of it read once.

    Args:
        root: the top folder.
    """

    root: Path

    @cached_property
    def product(self) -> list[Source]:
        """The package that is installed."""
        return python_files(self.root, *PRODUCT)

    @cached_property
    def around(self) -> list[Source]:
        """Tools, benchmarks and examples."""
        return python_files(self.root, *AROUND)

    @cached_property
    def tests(self) -> list[Source]:
        """The tests."""
        return python_files(self.root, TESTS)

    @cached_property
    def everything(self) -> list[Source]:
        """All Python files."""
        return [*self.product, *self.around, *self.tests]


def python_files(root: Path, *folders: str) -> list[Source]:
    """All Python files under some folders of a checkout, in order; links are not followed."""
    sources = []
    for folder in folders:
        for path in files(root / folder):
            if path.suffix == ".py":
                text = path.read_text(encoding="utf-8")
                relative = PurePosixPath(path.relative_to(root).as_posix())
                sources.append(Source(relative, text, ast.parse(text, str(relative))))
    return sources


def texts(root: Path) -> Iterator[tuple[PurePosixPath, str]]:
    """Every file of prose, code or configuration in a checkout; no data, nothing generated."""
    tops = (*PRODUCT, *AROUND, TESTS, "docs", ".ci")
    found = [path for path in root.iterdir() if path.is_file()]
    for top in tops:
        found += files(root / top)
    for path in sorted(found):
        relative = PurePosixPath(path.relative_to(root).as_posix())
        if relative.suffix not in TEXT_SUFFIXES and relative.name not in TEXT_NAMES:
            continue
        if any(relative.is_relative_to(folder) for folder in DATA_FOLDERS):
            continue
        if path.stat().st_size <= MAX_TEXT_BYTES:
            yield relative, path.read_text(encoding="utf-8", errors="replace")


def files(folder: Path) -> list[Path]:
    """All files below a folder, in order; links and caches are not entered."""
    found = []
    for directory, names, members in os.walk(folder):
        names[:] = sorted(name for name in names if name != "__pycache__")
        paths = (Path(directory, name) for name in sorted(members))
        found += [path for path in paths if not path.is_symlink()]
    return found

"""How a file is written: sizes, docstrings, no assert, no hidden state, a test beside it."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from .tree import Source

MAX_FILE_LINES = 600
MAX_FUNCTION_LINES = 60
EMPTY_MUTABLES = ("[]", "{}", "list()", "dict()", "set()")


def long_files(sources: Iterable[Source]) -> Iterator[str]:
    """Files past the wall."""
    for source in sources:
        lines = source.text.count("\n")
        if lines > MAX_FILE_LINES:
            yield f"{source.path}: {lines} lines, the wall is {MAX_FILE_LINES}"


def long_functions(sources: Iterable[Source]) -> Iterator[str]:
    """Functions that want splitting."""
    for source in sources:
        for node in ast.walk(source.syntax):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > MAX_FUNCTION_LINES:
                    yield (
                        f"{source.path}:{node.lineno}: {node.name} has {lines} lines, "
                        f"the wall is {MAX_FUNCTION_LINES}"
                    )


def without_docstring(sources: Iterable[Source]) -> Iterator[str]:
    """Modules that do not say what they are."""
    for source in sources:
        if not ast.get_docstring(source.syntax):
            yield f"{source.path}: no module docstring"


def forbidden_statements(sources: Iterable[Source]) -> Iterator[str]:
    """Statements that product code must not hold: assert, bare except, eval and exec, global."""
    for source in sources:
        for node in ast.walk(source.syntax):
            if reason := _reason(node):
                line = getattr(node, "lineno", 0)
                yield f"{source.path}:{line}: {reason}"


def _reason(node: ast.AST) -> str:
    if isinstance(node, ast.Assert):
        return "assert outside tests: raise a typed error"
    if isinstance(node, ast.ExceptHandler) and node.type is None:
        return "bare except: name what is expected"
    if isinstance(node, ast.Global):
        return "global: pass state instead"
    if isinstance(node, ast.Call) and ast.unparse(node.func) in ("eval", "exec"):
        return f"{ast.unparse(node.func)}(): find a safer way"
    return ""


def module_registries(sources: Iterable[Source]) -> Iterator[str]:
    """Empty containers at module level: they wait to be filled from elsewhere."""
    for source in sources:
        for node in source.syntax.body:
            if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
                value = ast.unparse(node.value)
                if value in EMPTY_MUTABLES or value.startswith("defaultdict("):
                    yield f"{source.path}:{node.lineno}: {ast.unparse(node)}: hidden mutable state"


def test_of(path: PurePosixPath) -> PurePosixPath:
    """Where the tests of a source file are: graphopt/ir/dtype.py -> tests/ir/test_dtype.py."""
    parts = path.parts[1:] if path.parts[0] == "graphopt" else path.parts
    return PurePosixPath("tests", *parts[:-1], f"test_{parts[-1]}")


def without_test(sources: Iterable[Source], root: Path) -> Iterator[str]:
    """Source files that no test file mirrors."""
    for source in sources:
        if not source.path.name.startswith("__") and not (root / test_of(source.path)).is_file():
            yield f"{source.path}: no {test_of(source.path)}"


def skips(tests: Iterable[Source], allowed: frozenset[str]) -> Iterator[str]:
    """Tests that may not run, outside the files that are allowed to decide so."""
    names = ("skip", "skipif", "skipIf", "skipUnless", "xfail", "importorskip", "SkipTest")
    for source in tests:
        if str(source.path) in allowed:
            continue
        for node in ast.walk(source.syntax):
            if isinstance(node, ast.Attribute) and node.attr in names:
                owner = ast.unparse(node.value)
                if owner.split(".")[0] in ("pytest", "unittest") or owner.endswith("mark"):
                    yield f"{source.path}:{node.lineno}: {ast.unparse(node)}: a test runs or goes"
            elif isinstance(node, ast.ImportFrom) and node.module in ("pytest", "unittest"):
                for alias in node.names:
                    if alias.name in names:
                        yield f"{source.path}:{node.lineno}: imports {alias.name}"

"""Who may import whom. The house has floors, and every arrow between its rooms points down.

A room is a folder or a file directly inside graphopt/. It may import rooms on lower floors and, on
its own floor, those to its left; the four in the middle know nothing of one another and meet in the
plan. Imports inside functions, under TYPE_CHECKING and by `import_module("...")` count like any
other.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import TYPE_CHECKING, Any

import networkx

from .tree import Source

FLOORS: tuple[tuple[str, ...], ...] = (
    ("errors", "failures", "lifeline", "progress", "target", "isa", "config", "json_values"),
    ("ir", "packing", "gpu_packing", "quantization", "weight_layout", "safetensors_io", "cache"),
    (
        "ledger",
        "region",
        "signature",
        "kv_layout",
        "embedding",
        "plan",
        "launch",
        "loop_kernels",
        "plan_arguments",
        "arena",
        "manifest",
        "artifact_files",
        "artifact",
        "attention_variant",
        "function_plan",
        "reuse",
        "report",
    ),
    ("frontend", "passes", "codegen", "runtime"),
    (
        "stages",
        "contents_api",
        "embedding_api",
        "api",
        "bisect_api",
        "cache_api",
        "function_api",
        "onnx_api",
        "tune_api",
        "",
    ),  # "" is graphopt/__init__.py
    ("doctor", "bench", "cli", "__main__"),
)
MIDDLE = FLOORS[3]
COMPILER = ("frontend", "passes", "codegen")
HEAVY = ("torch", "transformers")

# The modules that exist to call PyTorch. Everything else that serving needs starts without it.
MAY_IMPORT_HEAVY = (
    "graphopt.frontend.*",
    "graphopt.passes.*",
    "graphopt.codegen.*",
    "graphopt.ir.reference*",
    "graphopt.ir.interpreter",
    "graphopt.ir.recover",
    "graphopt.runtime.executors.torch*",
    "graphopt.runtime.executors.gpu.cubins",
    "graphopt.runtime.executors.gpu.pytorch",
    "graphopt.runtime.executors.gpu.tuning",
    "graphopt.runtime.executors.function",
    "graphopt.runtime.executors.stateless",
    "graphopt.runtime.executors.verification",
)

Name = tuple[str, ...]

if TYPE_CHECKING:
    ImportGraph = networkx.DiGraph[Any]
else:
    ImportGraph = networkx.DiGraph


@dataclass(frozen=True, slots=True)
class Import:
    """One imported module.

    Args:
        place: the file and line that import it.
        importer: the module that does.
        name: the module, absolute.
        eager: whether importing the file imports it, that is, outside functions and TYPE_CHECKING.
        level: how many dots a relative import has, 0 for an absolute one.
    """

    place: str
    importer: Name
    name: Name
    eager: bool
    level: int


def imports(sources: Sequence[Source]) -> Iterator[Import]:
    """All imports of some files; of `from package import name`, the module `name` if it is one."""
    modules = frozenset(source.module for source in sources)
    for source in sources:
        yield from _walk(source, source.syntax, modules, eager=True)


def _walk(
    source: Source, node: ast.AST, modules: frozenset[Name], *, eager: bool
) -> Iterator[Import]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) or (
        isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
    ):
        eager = False
    for name, level in _named(source, node, modules):
        place = f"{source.path}:{getattr(node, 'lineno', 0)}"
        yield Import(place, source.module, name, eager, level)
    for child in ast.iter_child_nodes(node):
        yield from _walk(source, child, modules, eager=eager)


def _named(source: Source, node: ast.AST, modules: frozenset[Name]) -> Iterator[tuple[Name, int]]:
    """The modules that one statement or call names, and the level of the import."""
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield tuple(alias.name.split(".")), 0
    elif isinstance(node, ast.ImportFrom):
        base = tuple(node.module.split(".")) if node.module else ()
        if node.level:
            base = source.package[: len(source.package) - node.level + 1] + base
        names = ((*base, alias.name) for alias in node.names)
        for name in dict.fromkeys(name if name in modules else base for name in names):
            yield name, node.level
    elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
        called = ast.unparse(node.func).rpartition(".")[2]
        if called in ("import_module", "__import__"):
            yield tuple(str(node.args[0].value).split(".")), 0


def import_graph(sources: Sequence[Source], *, eager_only: bool = False) -> ImportGraph:
    """The modules of the product and what they import."""
    graph = ImportGraph()
    graph.add_nodes_from(source.module for source in sources)
    for found in imports(sources):
        if found.eager or not eager_only:
            graph.add_edge(found.importer, found.name)
    return graph


def room(name: Name) -> str | None:
    """The room a module is in; None outside the house."""
    if name[:1] != ("graphopt",):
        return None
    return name[1] if len(name) > 1 else ""


def _position(of: str) -> tuple[int, int] | None:
    for number, rooms in enumerate(FLOORS):
        if of in rooms:
            return number, rooms.index(of)
    return None


def homeless(sources: Iterable[Source]) -> Iterator[str]:
    """Rooms that the table of floors does not know."""
    for source in sources:
        if _position(room(source.module) or "") is None:
            yield f"{source.path}: {room(source.module)} has no floor in tools/house/arrows.py"


def wrong_arrows(sources: Sequence[Source]) -> Iterator[str]:
    """Imports that point up or sideways."""
    for found in imports(sources):
        mine, theirs = room(found.importer), room(found.name)
        if mine is None or theirs is None or mine == theirs:
            continue
        here, there = _position(mine), _position(theirs)
        if here is None or there is None:
            continue
        arrow = f"{mine or 'graphopt'} -> {theirs or 'graphopt'}"
        if there[0] > here[0]:
            yield f"{found.place}: arrow up: {arrow}"
        elif there[0] == here[0] and (mine in MIDDLE or there > here):
            yield f"{found.place}: arrow sideways: {arrow}"


def bare_imports(sources: Sequence[Source]) -> Iterator[str]:
    """Imports of `passes` and its like, names that belong to the user's site-packages."""
    for found in imports(sources):
        if found.name[:1] in (("passes",), ("codegen",), ("runtime",), ("frontend",)):
            name = ".".join(found.name)
            yield f"{found.place}: imports {name}: say graphopt.{name}"


def wrong_spelling(sources: Sequence[Source]) -> Iterator[str]:
    """Absolute imports inside a folder, and relative ones across folders."""
    for found in imports(sources):
        mine, theirs = room(found.importer), room(found.name)
        name = ".".join(found.name)
        if mine == theirs and len(found.name) > 2 and not found.level:
            yield f"{found.place}: {name} is of the same folder: import it relatively"
        elif mine != theirs and found.level:
            yield f"{found.place}: relative import across folders: say {name}"


def cycles(sources: Sequence[Source]) -> Iterator[str]:
    """Modules that import one another while they are being imported."""
    graph = import_graph(sources, eager_only=True)
    for members in networkx.strongly_connected_components(graph):
        if len(members) > 1 or any(graph.has_edge(name, name) for name in members):
            yield f"import cycle: {', '.join(sorted('.'.join(name) for name in members))}"


def runtime_reaches_compiler(sources: Sequence[Source]) -> Iterator[str]:
    """Chains of imports by which the runtime would come to need the compiler."""
    graph = import_graph(sources)
    yield from _chains(
        graph,
        starts=[name for name in graph if room(name) == "runtime"],
        ends=[name for name in graph if room(name) in COMPILER],
    )


def light_modules(sources: Iterable[Source]) -> list[str]:
    """The modules that must come up without PyTorch and transformers."""
    names = (".".join(source.module) for source in sources)
    return [name for name in names if not any(fnmatch(name, heavy) for heavy in MAY_IMPORT_HEAVY)]


def heavy_imports(sources: Sequence[Source]) -> Iterator[str]:
    """Chains of imports by which a light module would bring up PyTorch or transformers."""
    graph = import_graph(sources, eager_only=True)
    for name in [source.module for source in sources]:
        for length in range(1, len(name)):  # importing a module imports the packages around it
            graph.add_edge(name, name[:length])
    light = [tuple(name.split(".")) for name in light_modules(sources)]
    yield from _chains(
        graph, starts=light, ends=[name for name in graph if name[:1] and name[0] in HEAVY]
    )


def _chains(graph: ImportGraph, starts: list[Name], ends: list[Name]) -> Iterator[str]:
    for start in sorted(starts):
        for end in sorted(set(ends) & networkx.descendants(graph, start)):
            chain = networkx.shortest_path(graph, start, end)
            yield " -> ".join(".".join(name) for name in chain)

"""What a report is made from, while compiling or from an artifact that is read again."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import PurePosixPath

from graphopt.artifact import Artifact, ModelInfo
from graphopt.errors import ArtifactError
from graphopt.ir.graph import Graph
from graphopt.ir.parser import parse_graph
from graphopt.launch import LaunchKernel
from graphopt.ledger import Ledger, PassReport
from graphopt.plan import Plan

PASSES, REPORT = "passes.json", "report.html"  # files of an artifact
TRACED, KERNELS = "traced", "kernels"
SOURCE_SUFFIXES = frozenset((".c", ".cpp", ".cu", ".h", ".hpp", ".py"))


@dataclass(frozen=True, slots=True)
class ReportSource:
    """Everything that a report shows.

    Attributes:
        plan: what runs.
        graph: what the plan computes.
        traced: the graph before the first pass; None if nobody kept it.
        ledger: what was decided.
        model: what the model is.
        passes: what each pass did; empty if nobody kept it.
        versions: what made the artifact.
        kernels: source text of kernels, by the name they have in the plan.
    """

    plan: Plan
    graph: Graph
    traced: Graph | None
    ledger: Ledger
    model: ModelInfo
    passes: tuple[PassReport, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    kernels: Mapping[str, str] = field(default_factory=dict)


def passes_to_json(rows: Iterable[PassReport]) -> bytes:
    """The content of ``passes.json``."""
    return (json.dumps([asdict(row) for row in rows], indent=1) + "\n").encode()


def passes_from_json(text: str) -> tuple[PassReport, ...]:
    """The rows that ``passes_to_json`` wrote.

    Raises:
        ArtifactError: the text holds something else.
    """
    try:
        return tuple(PassReport(**row) for row in json.loads(text))
    except (TypeError, ValueError, RecursionError) as error:
        raise ArtifactError(f"{PASSES} is not readable", got=repr(error)[:200]) from error


def source_of(artifact: Artifact) -> ReportSource:
    """What a report of an artifact is made from.

    Raises:
        ArtifactError: a file is damaged.
        ParseError: a graph's text is.
    """
    files = artifact.manifest["files"]
    traced = f"stages/{TRACED}.ir" in files
    kernels: dict[str, list[str]] = {}
    for name in sorted(files):
        path = PurePosixPath(name)
        if path.parts[0] == KERNELS and path.suffix in SOURCE_SUFFIXES and len(path.parts) > 2:
            kernels.setdefault(path.parts[1], []).append(_text(artifact, name))
    return ReportSource(
        artifact.plan,
        parse_graph(artifact.graph_text()),
        parse_graph(artifact.stage_text(TRACED)) if traced else None,
        artifact.ledger(),
        artifact.model,
        passes_from_json(_text(artifact, PASSES)) if PASSES in files else (),
        artifact.manifest["versions"],
        {name: _with_summary(artifact, name, texts) for name, texts in kernels.items()},
    )


def _with_summary(artifact: Artifact, name: str, texts: Iterable[str]) -> str:
    """The text of a kernel; before that of one for a GPU, what it takes there."""
    text = "\n".join(texts)
    return kernel_text(artifact.launch(name), text) if name in artifact.launch_archs else text


def kernel_text(kernel: LaunchKernel, text: str) -> str:
    """A kernel's text, and before it what its variants take of a GPU."""
    return "".join(f"# {line}\n" for line in kernel.summary()) + text


def _text(artifact: Artifact, name: str) -> str:
    try:
        return (artifact.path / name).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ArtifactError(
            "a file of the artifact cannot be read", where=name, got=repr(error)[:200]
        ) from error

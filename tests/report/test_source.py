"""What a report is made from comes back from the artifact as it went in."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from graphopt.artifact import read_artifact, write_artifact
from graphopt.errors import ArtifactError
from graphopt.ir.printer import print_graph
from graphopt.ledger import PassReport
from graphopt.report.source import (
    ReportSource,
    passes_from_json,
    passes_to_json,
    source_of,
)
from tests.test_artifact import contents

from .models import two_layers

ROWS = (PassReport("clean", True, 3, 0.25, 20, 17, 900, 800),)


def stored(folder: Path, source: ReportSource, **extra: bytes) -> ReportSource:
    files = {name.replace("__", "/"): data for name, data in extra.items()}
    write_artifact(
        folder,
        replace(
            contents(),
            plan=source.plan,
            graph_text=print_graph(source.graph),
            ledger=source.ledger,
            model=source.model,
            versions=source.versions,
            extra_files={name.replace("_dot_", "."): data for name, data in files.items()},
        ),
    )
    return source_of(read_artifact(folder))


def test_an_artifact_gives_it_back(tmp_path: Path) -> None:
    source = two_layers()
    found = stored(
        tmp_path / "a.gopt",
        source,
        stages__traced_dot_ir=print_graph(source.graph).encode(),
        passes_dot_json=passes_to_json(ROWS),
        kernels__linear__kernel_dot_cpp=b"void kernel() {}",
        kernels__linear__kernel_dot_so=b"\x7fELF",
    )
    assert found.plan == source.plan
    assert print_graph(found.graph) == print_graph(source.graph)
    assert found.traced is not None
    assert print_graph(found.traced) == print_graph(source.graph)
    assert found.ledger == source.ledger
    assert found.model == source.model
    assert found.versions == source.versions
    assert found.passes == ROWS
    assert found.kernels == {"linear": "void kernel() {}"}


def test_an_artifact_with_nothing_more(tmp_path: Path) -> None:
    found = stored(tmp_path / "a.gopt", two_layers())
    assert (found.traced, found.passes, found.kernels) == (None, (), {})


@pytest.mark.parametrize(
    "text", ["", "{}x", "[1]", '[{"name": "p"}]', '[{"other": 1}]', "[" * 9999]
)
def test_damaged_rows_are_refused(text: str) -> None:
    with pytest.raises(ArtifactError, match=r"passes\.json is not readable"):
        passes_from_json(text)

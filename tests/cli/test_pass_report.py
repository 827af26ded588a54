"""What passes did, in words; the commands that print it are tested with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from graphopt.cli import pass_report
from graphopt.errors import UsageError
from graphopt.ir.printer import print_graph
from tests.passes import wrong


def test_nothing_to_dump() -> None:
    assert pass_report.dumper((), None, quiet=False, known=()) is None
    with pytest.raises(UsageError, match="without --dump-after"):
        pass_report.dumper((), "folder", quiet=False, known=())
    with pytest.raises(UsageError, match="no such pass") as caught:
        pass_report.dumper(("a", "b"), None, quiet=False, known=("a", "c"))
    assert (caught.value.got, caught.value.expected) == ("b", "all, a, c")


def test_all_leaves_out_what_changed_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    dumper = pass_report.dumper(("all", "named"), None, quiet=False, known=("named", "other"))
    assert dumper is not None
    graph = wrong.decoder()
    dumper("other", graph, graph)
    assert capsys.readouterr().out == ""
    dumper("named", graph, graph)
    assert capsys.readouterr().out == f"// after named\n{print_graph(graph)}"


def test_files_are_numbered_and_quiet_ones_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    graph = wrong.decoder()
    dumper = pass_report.dumper(("a", "b"), str(tmp_path), quiet=False, known=("a", "b"))
    quiet = pass_report.dumper(("a", "b"), None, quiet=True, known=("a", "b"))
    assert dumper is not None
    assert quiet is not None
    for name in ("b", "a"):
        dumper(name, graph, graph)
        quiet(name, graph, graph)
    assert [Path(path).name for path in dumper.dumped.values()] == ["00-b.ir", "01-a.ir"]
    assert quiet.dumped == dict.fromkeys(("b", "a"), print_graph(graph))
    assert capsys.readouterr().out == ""

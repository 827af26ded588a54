"""What passes did, in words: the table, the graphs that were asked for, the comparisons."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from graphopt.errors import MachineError, UsageError

from .output import human_bytes

if TYPE_CHECKING:
    from graphopt.api import Outcome
    from graphopt.bisect_api import PassChecks
    from graphopt.contents_api import Compiled
    from graphopt.ir.graph import Graph
    from graphopt.ledger import PassReport

COLUMNS = ("pass", "rewrites", "ms", "nodes", "after", "bytes", "after")
STAGE_COLUMNS = ("stage", "ms")
CHECK_COLUMNS = ("pass", "in", "error", "tolerance", "furthest off")
ALL = "all"


def report_rows(reports: Sequence[PassReport]) -> list[tuple[object, ...]]:
    """A row for each pass; bytes are those that nodes move when each runs alone, at one token."""
    return [
        (
            row.name,
            row.rewrites,
            f"{row.seconds * 1e3:.1f}",
            row.nodes_before,
            row.nodes_after,
            human_bytes(row.bytes_before),
            human_bytes(row.bytes_after),
        )
        for row in reports
    ]


def reports_json(compiled: Compiled | None) -> dict[str, Any]:
    """The same as plain data; nulls if nothing was compiled."""
    if compiled is None:
        return {"passes": None, "stages_ms": None, "last_rewrite": None}
    return {
        "passes": [{**asdict(row), "ms": round(row.seconds * 1e3, 3)} for row in compiled.reports],
        "stages_ms": {name: round(s * 1e3, 3) for name, s in compiled.seconds.items()},
        "last_rewrite": compiled.last_rewrite,
    }


def stage_rows(compiled: Compiled) -> list[tuple[object, ...]]:
    """How long each of the other stages took; ``native`` compiles the kernels."""
    return [(name, f"{seconds * 1e3:.1f}") for name, seconds in compiled.seconds.items()]


def outcome_rows(outcome: Outcome, fuel: int | None) -> list[tuple[str, object]]:
    """Whether anything ran, and where the fuel ended."""
    if outcome.compiled is None:
        return [("cache", "compiled before; taken as it is")]
    if fuel is None:
        return []
    applied = sum(row.rewrites for row in outcome.compiled.reports)
    last = outcome.compiled.last_rewrite or "none"
    return [("fuel", f"{applied} of {fuel} rewrites were applied by passes, the last: {last}")]


def check_rows(checks: PassChecks) -> list[tuple[object, ...]]:
    """A row for each comparison after each pass."""
    return [
        (
            check.name,
            str(one.dtype),
            f"{one.row.error:.2e}",
            f"{one.tolerance:.2e}",
            f"row {one.row.number} of {one.row.output}, step {one.row.step}",
        )
        for check in checks.checks
        for one in check.comparisons
    ]


def outcome_json(
    outcome: Outcome, checks: PassChecks | None, dumper: Dumper | None
) -> dict[str, Any]:
    """Everything that passes did, as plain data."""
    return {
        "reused": outcome.compiled is None,
        **reports_json(outcome.compiled),
        "dumped": dumper.dumped if dumper is not None else {},
        "checked": checks_json(checks) if checks is not None else None,
    }


def checks_json(checks: PassChecks) -> dict[str, Any]:
    """The same as plain data."""
    return {
        "subject": checks.subject,
        "passes": [
            {"name": check.name, "comparisons": [one.to_json() for one in check.comparisons]}
            for check in checks.checks
        ],
    }


@dataclass(slots=True)
class Dumper:
    """Prints the graph after passes, or writes it into files.

    Attributes:
        names: after which passes; ``all`` for each one that changes the graph.
        folder: where to write files; None to print.
        quiet: keep the text and print nothing.
        dumped: by pass, the text, or the path of the file.
    """

    names: frozenset[str]
    folder: Path | None = None
    quiet: bool = False
    dumped: dict[str, str] = field(default_factory=dict)

    def __call__(self, name: str, before: Graph, after: Graph) -> None:
        """Called after each pass."""
        from graphopt.ir.printer import print_graph

        if name not in self.names and (ALL not in self.names or after is before):
            return
        text = print_graph(after)
        if self.folder is not None:
            number = f"{len(self.dumped):02}"
            self.dumped[name] = _write(self.folder / f"{number}-{name}.ir", text)
            return
        self.dumped[name] = text
        if not self.quiet:
            click.echo(f"// after {name}\n{text}", nl=False)


def dumper(
    names: Sequence[str], folder: str | None, *, quiet: bool, known: Sequence[str]
) -> Dumper | None:
    """What listens for ``--dump-after``; None if it was not given.

    Raises:
        UsageError: there is no such pass, or a folder and nothing to write into it.
    """
    if not names:
        if folder is not None:
            raise UsageError(
                "--dump-dir means nothing without --dump-after", next="add --dump-after all"
            )
        return None
    if unknown := sorted(set(names) - {ALL, *known}):
        raise UsageError("no such pass", got=", ".join(unknown), expected=", ".join((ALL, *known)))
    return Dumper(frozenset(names), Path(folder) if folder is not None else None, quiet)


def checked_rows(checks: PassChecks | None) -> list[tuple[str, object]]:
    """What was compared, in words; nothing if nothing was."""
    if checks is None:
        return []
    count = sum(len(check.comparisons) for check in checks.checks)
    passes = f"{len(checks.checks)} passes, {count} comparisons, all within tolerance"
    return [("checked", f"{passes}\non {checks.subject}")]


def _write(path: Path, text: str) -> str:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise MachineError(
            "a graph cannot be written", where=str(path), got=error.strerror
        ) from error
    return str(path)

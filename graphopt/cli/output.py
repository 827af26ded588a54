"""How results are printed: JSON for machines, tables and plain words for people."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence

import click

# A pipe has no width: wide enough that no cell of ours is folded.
PIPE_WIDTH = 400


def print_json(data: object) -> None:
    """Print one JSON document to stdout; infinities and NaN, which JSON lacks, become null."""
    click.echo(json.dumps(_finite(data), indent=2, ensure_ascii=False, allow_nan=False))


def _finite(data: object) -> object:
    if isinstance(data, float):
        return data if math.isfinite(data) else None
    if isinstance(data, Mapping):
        return {key: _finite(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_finite(value) for value in data]
    return data


def print_rows(rows: Iterable[tuple[str, object]]) -> None:
    """Print ``label  value`` lines with the values aligned, values of several lines too."""
    listed = [(label, str(value)) for label, value in rows]
    width = max((len(label) for label, _ in listed), default=0) + 2
    for label, value in listed:
        click.echo(f"{label:<{width}}" + value.replace("\n", "\n" + " " * width))


def print_table(
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    right: Iterable[int] = (),
    styles: Iterable[str] | None = None,
) -> None:
    """Print a table to stdout, colored and fitted to the width if that is a terminal.

    Args:
        columns: the headings.
        rows: one sequence of cells a row, in the order of ``columns``.
        right: numbers of the columns that are aligned to the right.
        styles: a rich style for each row, such as ``red``; None for no styles.
    """
    from rich.console import Console
    from rich.table import Table

    # A table for a terminal may fold long cells; one for a pipe stays one line a row.
    width = None if sys.stdout.isatty() else PIPE_WIDTH
    console = Console(markup=False, highlight=False, emoji=False, width=width)
    table = Table(box=None, pad_edge=False, header_style="bold")
    aligned = set(right)
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number in aligned else "left", overflow="fold")
    for row, style in zip(rows, styles or _no_styles(), strict=False):
        table.add_row(*map(str, row), style=style or None)
    with console.capture() as captured:
        console.print(table)
    click.echo("\n".join(line.rstrip() for line in captured.get().splitlines()))


def _no_styles() -> Iterable[str]:
    while True:
        yield ""


def human_bytes(count: int) -> str:
    """A number of bytes in binary units: ``1.5 GiB``."""
    size = float(count)
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def human_count(count: int) -> str:
    """A number as people say it: ``8.03 B`` for eight billion."""
    for limit, unit in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if count >= limit:
            return f"{count / limit:.3g} {unit}"
    return str(count)


def one_line(text: str, width: int = 60) -> str:
    """``text`` on one line of at most ``width`` characters, control characters escaped."""
    escaped = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text[: width + 1])
    return escaped if len(escaped) <= width else escaped[: width - 1] + "…"

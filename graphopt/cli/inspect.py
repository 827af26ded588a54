"""``graphopt inspect``: what is in an artifact."""

from __future__ import annotations

from typing import Any

import click

from .options import debug_option, json_option
from .output import print_json, print_rows, print_table


@click.command(short_help="Show what is in an artifact.")
@click.argument("artifact", metavar="ARTIFACT")
@click.option("--graph", is_flag=True, help="Print the compiled graph in its text form.")
@click.option(
    "--stage",
    metavar="NAME",
    help="Print the graph as it was after a pass: traced, or one that --keep-stages kept.",
)
@click.option(
    "--ledger",
    is_flag=True,
    help="Print what was decided when compiling, and why; equal decisions are counted together.",
)
@click.option("--plan", is_flag=True, help="Print the pieces, their steps and why each ends.")
@click.option("--check", is_flag=True, help="Also read every file and compare its digest.")
@json_option
@debug_option
def command(
    artifact: str,
    *,
    graph: bool,
    stage: str | None,
    ledger: bool,
    plan: bool,
    check: bool,
    as_json: bool,
) -> None:
    """Show what is in ARTIFACT: a summary, or its graph, ledger or plan.

    Example: graphopt inspect demo.gopt --ledger
    """
    from graphopt.artifact import read_artifact

    from . import summary

    opened = read_artifact(artifact, check_digests=check)
    views: dict[str, Any] = {}
    if graph:
        views["graph"] = opened.graph_text()
    if stage is not None:
        views["stage"] = opened.stage_text(stage)
    if ledger:
        views["ledger"] = opened.ledger().to_json()
    if plan:
        views["plan"] = opened.plan.to_json()
    if as_json:
        print_json(views or summary.summarize(opened))
        return
    for text in ("graph", "stage"):
        if text in views:
            click.echo(views[text], nl=False)
    if ledger:
        print_table(
            summary.LEDGER_COLUMNS, summary.ledger_rows(opened.ledger().entries), right=(2, 3)
        )
    if plan:
        for line in summary.plan_lines(opened.plan):
            click.echo(line)
    if not views:
        print_rows(summary.inspect_rows(summary.summarize(opened)))

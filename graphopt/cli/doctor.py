"""``graphopt doctor``: what this machine can do, and what is missing."""

from __future__ import annotations

from dataclasses import asdict

import click

from .options import debug_option, json_option
from .output import print_json, print_table


@click.command(short_help="Show what this machine can do and what is missing.")
@click.option(
    "--measure/--no-measure",
    default=True,
    help="Measure how fast memory is read, which takes a second or two. Default: measure.",
)
@json_option
@debug_option
@click.pass_context
def command(ctx: click.Context, *, measure: bool, as_json: bool) -> None:
    """Look at this machine: Python, packages, compiler, CPU, memory, disk, cache, GPU.

    Each row is ok, warn (works with a drawback) or missing, with what follows from it and what to
    do. Leaves with exit code 9 if something that graphopt needs is missing.
    """
    from graphopt.doctor import default_probes, examine
    from graphopt.errors import MachineError

    findings = examine(default_probes(measure=measure))
    blocked = [finding.name for finding in findings if finding.blocks]
    if as_json:
        rows = [asdict(finding) for finding in findings]
        print_json({"works": not blocked, "findings": rows})
        ctx.exit(MachineError.exit_code if blocked else 0)
    print_table(
        ("", "status", "found", "what follows"),
        [(row.name, row.status, row.found, row.advice) for row in findings],
        styles=["red" if row.blocks else "yellow" if row.todo else "" for row in findings],
    )
    if blocked:
        raise MachineError(
            "something that graphopt needs is missing",
            got=", ".join(blocked),
            next="see the rows marked missing above",
        )

"""``graphopt bisect``: the rewrite that breaks a model's numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from .options import (
    COMPILE_OPTIONS,
    PASS_OPTIONS,
    compile_options,
    debug_option,
    given,
    json_option,
    pass_options,
)
from .output import print_json, print_rows
from .progress import ProgressReport

if TYPE_CHECKING:
    from graphopt.bisect_api import BisectReport


@click.command(short_help="Find the rewrite that breaks a model's numbers.")
@click.argument("place", metavar="CHECKPOINT|REPRO")
@click.option(
    "-o",
    "--output",
    metavar="FOLDER",
    type=click.Path(file_okay=False),
    help="Where the repro goes. Default: graphopt-repro-NAME in the current folder.",
)
@compile_options
@pass_options
@json_option
@debug_option
@click.pass_context
def command(
    ctx: click.Context, /, place: str, output: str | None, *, as_json: bool, **options: Any
) -> None:
    """Find the first pass, then the first single rewrite, that changes what a model computes.

    The graph before and after is run by the reference interpreter on random weights and inputs; a
    large model's twin stands for it. What is found is cut down to a few nodes and written as a
    folder, a REPRO, on which this command shows the failure again. If all passes are right, the
    plan is compared with the interpreter, step by step. Leaves with exit code 8 if numbers
    disagree, 5 if a pass fails.

    Example: graphopt bisect examples/demo-llama --dtype bfloat16
    """
    from graphopt import bisect_api

    with ProgressReport() as progress:
        if bisect_api.is_repro(place):
            report = bisect_api.bisect_repro(place)
        else:
            chosen = given(options, (*COMPILE_OPTIONS, *PASS_OPTIONS))
            report = bisect_api.bisect_checkpoint(place, output, progress=progress, **chosen)
    show(ctx, report, as_json=as_json)


def show(ctx: click.Context, report: BisectReport, *, as_json: bool) -> None:
    """Print what was found, and leave with the exit code that says it."""
    from graphopt.errors import CompileError, DisagreementError

    if as_json:
        print_json(report.to_json())
    else:
        print_rows(rows(report))
    if not report.is_right:
        failed = report.kind == "fails"
        ctx.exit(CompileError.exit_code if failed else DisagreementError.exit_code)


def rows(report: BisectReport) -> list[tuple[str, object]]:
    """What was found, in words."""
    found: list[tuple[str, object]] = [("searched", report.subject)]
    if report.culprit is not None:
        found += [("culprit", report.culprit), (report.kind, report.fault)]
        if report.repro is not None:
            found += [("repro", f"{report.repro}, {report.nodes} nodes"), ("again", report.command)]
        return found
    found.append(("passes", "right"))
    if report.plan is not None:
        from .verdict import rows as compared
        from .verdict import verdict_line

        found.append(("plan", verdict_line(report.plan)))
        first = next((row for row in compared(report.plan) if not row.agrees), None)
        if first is not None:
            error = f"relative error {first.error:.2e}, at most {first.tolerance:.2e} is allowed"
            found.append(("first", f"{first.name} {first.scope}: {error}"))
    return found

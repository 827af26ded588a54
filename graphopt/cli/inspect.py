"""``graphopt inspect``: what is in an artifact."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .options import debug_option, json_option, needs
from .output import print_json, print_rows, print_table

if TYPE_CHECKING:
    from graphopt.artifact import Artifact
    from graphopt.ledger import Entry
    from graphopt.runtime.capture_plan import CapturePlan

REPORT = "report.html"


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
    help="Print what was decided when compiling, and why; equal decisions in several layers "
    "are one row.",
)
@click.option("--all", "each", is_flag=True, help="With --ledger: a row for each decision.")
@click.option("--rule", metavar="NAME", help="With --ledger: only what this rule decided.")
@click.option("--refused", is_flag=True, help="With --ledger: only what was refused.")
@click.option("--plan", is_flag=True, help="Print the pieces, their steps and why each ends.")
@click.option(
    "--captures",
    is_flag=True,
    help="Print what is captured on a GPU: sizes, bytes, and a sentence for each choice and cut.",
)
@click.option(
    "--capture-trace",
    metavar="FILE",
    help="With --captures: as it is for the batches in FILE, which --record-trace wrote.",
)
@click.option("--kernels", is_flag=True, help="List the compiled kernels, and what they take.")
@click.option("--kernel", metavar="NAME", help="Print the source of this kernel.")
@click.option("--report", is_flag=True, help="Write the report, a page for a browser, to a file.")
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    help=f"With --report: where to. Default: {REPORT} in this folder.",
)
@click.option("--check", is_flag=True, help="Also read every file and compare its digest.")
@json_option
@debug_option
def command(
    artifact: str,
    *,
    graph: bool,
    stage: str | None,
    ledger: bool,
    each: bool,
    rule: str | None,
    refused: bool,
    plan: bool,
    captures: bool,
    capture_trace: str | None,
    kernels: bool,
    kernel: str | None,
    report: bool,
    output: str | None,
    check: bool,
    as_json: bool,
) -> None:
    """Show what is in ARTIFACT: a summary, or its graph, ledger, plan, kernels or report.

    Example: graphopt inspect demo.gopt --ledger --refused
    """
    from graphopt.artifact import read_artifact

    from . import summary
    from .captures import captures_of, print_captures
    from .kernels import print_kernels

    needs(ledger, "--ledger", {"--all": each, "--rule": rule, "--refused": refused})
    needs(captures, "--captures", {"--capture-trace": capture_trace})
    needs(report, "--report", {"-o": output})
    opened = read_artifact(artifact, check_digests=check)
    captured = captures_of(opened, capture_trace) if captures else None
    texts = _texts(opened, graph=graph, stage=stage, kernel=kernel)
    views: dict[str, Any] = {**texts, **_facts(opened, captured, plan=plan, kernels=kernels)}
    entries: list[Entry] = []
    if ledger:
        entries = summary.chosen_entries(opened.ledger().entries, rule=rule, refused=refused)
        views.update(summary.ledger_json(entries))
    if report:
        views["report"] = write_report(opened, output or REPORT)
    if as_json:
        print_json(views or summary.summarize(opened))
        return
    for text in texts.values():
        click.echo(text, nl=False)
    if ledger:
        _print_ledger(entries, each=each)
    if plan:
        click.echo("\n".join(summary.plan_lines(opened.plan)))
    if captured:
        print_captures(captured, opened.plan)
    if kernels:
        print_kernels(views["kernels"])
    if report:
        print_rows([("report", f"{output or REPORT}: open it in a browser")])
    if not views:
        print_rows(summary.inspect_rows(summary.summarize(opened)))


def _texts(
    opened: Artifact, *, graph: bool, stage: str | None, kernel: str | None
) -> dict[str, str]:
    """Texts that are printed as they are."""
    texts = {}
    if graph:
        texts["graph"] = opened.graph_text()
    if stage is not None:
        texts["stage"] = opened.stage_text(stage)
    if kernel is not None:
        texts["kernel"] = _kernel(opened, kernel)
    return texts


def _facts(
    opened: Artifact, captured: CapturePlan | None, *, plan: bool, kernels: bool
) -> dict[str, Any]:
    """Views of the plan as plain data."""
    from .captures import captures_json
    from .kernels import kernels_json

    facts: dict[str, Any] = {}
    if plan:
        facts["plan"] = opened.plan.to_json()
    if captured:
        facts["captures"] = captures_json(captured, opened.plan)
    if kernels:
        facts["kernels"] = kernels_json(opened)
    return facts


def _kernel(opened: Artifact, name: str) -> str:
    """A kernel's text; before that of one for a GPU, what it takes there."""
    from graphopt.report.source import kernel_text

    text = opened.kernel_source(name)
    return kernel_text(opened.launch(name), text) if name in opened.launch_archs else text


def _print_ledger(entries: list[Entry], *, each: bool) -> None:
    from . import summary

    columns: tuple[str, ...] = summary.EACH_COLUMNS if each else summary.LEDGER_COLUMNS
    rows = summary.each_row(entries) if each else summary.ledger_rows(entries)
    verdicts = columns.index("decision")
    styles = ["yellow" if row[verdicts] == "refused" else "" for row in rows]
    right = [columns.index(name) for name in ("places", "saves") if name in columns]
    print_table(columns, rows, right=right, styles=styles)
    click.echo()
    print_table(summary.TOTAL_COLUMNS, summary.total_rows(entries), right=(1, 2, 3))


def write_report(opened: Artifact, output: str) -> dict[str, object]:
    """Write the page for an artifact; the answer says where it is and how large.

    Raises:
        ArtifactError: what the page is made from is damaged.
        MachineError: it cannot be written there.
    """
    from graphopt.errors import MachineError
    from graphopt.report.page import report_page
    from graphopt.report.source import source_of

    page = report_page(source_of(opened)).encode()
    try:
        Path(output).parent.mkdir(parents=True, exist_ok=True)
        Path(output).write_bytes(page)
    except OSError as error:
        raise MachineError(
            "the report cannot be written",
            where=output,
            got=error.strerror or error,
            next="name another file with -o",
        ) from error
    return {"file": output, "bytes": len(page)}

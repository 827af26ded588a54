"""``graphopt compile``: a checkpoint becomes an artifact."""

from __future__ import annotations

import time
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
    refuse,
)
from .output import print_json, print_rows, print_table
from .progress import ProgressReport

if TYPE_CHECKING:
    from graphopt.api import Outcome
    from graphopt.bisect_api import PassChecks


@click.command(short_help="Compile a checkpoint into an artifact.")
@click.argument("checkpoint")
@click.option(
    "-o",
    "--output",
    metavar="ARTIFACT",
    type=click.Path(),
    help="Folder to write; one that is an artifact is replaced. Default: the cache.",
)
@compile_options
@click.option(
    "--no-cache", is_flag=True, help="Compile even if the same is in the cache or at the output."
)
@click.option(
    "--keep-stages", is_flag=True, help="Also keep the graph's text after each pass, in stages/."
)
@click.option("-v", "--verbose", is_flag=True, help="Also print what each pass and stage did.")
@click.option(
    "--dump-after",
    metavar="NAME|all",
    multiple=True,
    help="Print the graph after this pass, or after each; may be repeated.",
)
@click.option(
    "--dump-dir",
    metavar="FOLDER",
    type=click.Path(file_okay=False),
    help="With --dump-after: write the graphs into files there instead.",
)
@pass_options
@click.option(
    "--verify-passes",
    is_flag=True,
    help="First compare the numbers before and after each pass, on random weights and inputs; "
    "a large model's twin stands for it.",
)
@json_option
@debug_option
def command(
    checkpoint: str,
    output: str | None,
    *,
    no_cache: bool,
    keep_stages: bool,
    verbose: bool,
    dump_after: tuple[str, ...],
    dump_dir: str | None,
    verify_passes: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Compile CHECKPOINT into an artifact.

    CHECKPOINT is a folder with config.json and safetensors, a hub name that is in the local
    hub cache, or an ONNX model: a file that ends in .onnx. What was compiled before from the same
    files, options and versions is taken as it is; options that look at the passes compile it again.

    Example: graphopt compile examples/demo-llama -o demo.gopt
    """
    from graphopt import api

    from . import pass_report
    from .onnx_model import compile_model, is_onnx
    from .summary import compile_rows, summarize

    start = time.monotonic()
    chosen = given(options, (*COMPILE_OPTIONS, *PASS_OPTIONS))
    if is_onnx(checkpoint):
        looks = {"--verify-passes": verify_passes, "--dump-after": dump_after}
        looks |= {"--dump-dir": dump_dir, "--keep-stages": keep_stages, "--verbose": verbose}
        refuse("for an ONNX model yet", looks)
        compile_model(checkpoint, output, as_json=as_json, **chosen)
        return
    names = api.pass_names() if dump_after else ()
    dumper = pass_report.dumper(dump_after, dump_dir, quiet=as_json, known=names)
    checks = _checked(checkpoint, chosen) if verify_passes else None
    with ProgressReport() as progress:
        outcome = api.compile_reported(
            checkpoint,
            output,
            keep_stages=keep_stages,
            reuse=not (no_cache or verbose),
            observe=dumper,
            progress=progress,
            **chosen,
        )
    summary = {
        **summarize(outcome.artifact),
        "seconds": round(time.monotonic() - start, 2),
        **pass_report.outcome_json(outcome, checks, dumper),
    }
    if as_json:
        print_json(summary)
        return
    if verbose:
        _print_tables(outcome, checks)
    told = pass_report.outcome_rows(outcome, chosen.get("pass_fuel"))
    print_rows([*compile_rows(summary), *told, *pass_report.checked_rows(checks)])


def _print_tables(outcome: Outcome, checks: PassChecks | None) -> None:
    """What each pass did, and how far its numbers are off."""
    from . import pass_report

    if outcome.compiled is not None:
        rows = pass_report.report_rows(outcome.compiled.reports)
        print_table(pass_report.COLUMNS, rows, right=range(1, len(pass_report.COLUMNS)))
        click.echo()
        print_table(pass_report.STAGE_COLUMNS, pass_report.stage_rows(outcome.compiled), right=(1,))
        click.echo()
    if checks is not None:
        print_table(pass_report.CHECK_COLUMNS, pass_report.check_rows(checks), right=(2, 3))
        click.echo()


def _checked(checkpoint: str, options: dict[str, Any]) -> PassChecks:
    from graphopt import bisect_api

    with ProgressReport() as progress:
        return bisect_api.verify_passes(checkpoint, progress=progress, **options)

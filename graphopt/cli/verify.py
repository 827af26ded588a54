"""``graphopt verify``: whether an artifact computes what its model means."""

from __future__ import annotations

import click

from .options import debug_option, json_option, needs, refuse, threads_option
from .output import print_json, print_table
from .parsing import token_ids
from .progress import ProgressReport


@click.command(short_help="Compare an artifact with the reference, piece by piece.")
@click.argument("artifact", metavar="ARTIFACT")
@click.option(
    "--reference",
    metavar="CHECKPOINT",
    help="Also compare with transformers, which runs this checkpoint.",
)
@click.option("--text", metavar="TEXT", help="Text to run. Default: a few lines of prose and code.")
@click.option(
    "--token-ids", "tokens", metavar="IDS", type=token_ids, help="Token ids to run, such as 1,2,3."
)
@click.option(
    "--bisect",
    "search",
    is_flag=True,
    help="Find the rewrite or the step at fault, as `graphopt bisect` does for a checkpoint; the "
    "artifact's own checkpoint is used, or that of --reference.",
)
@click.option(
    "--repro",
    "output",
    metavar="FOLDER",
    type=click.Path(file_okay=False),
    help="With --bisect: where the repro goes. Default: graphopt-repro-NAME in this folder.",
)
@threads_option
@json_option
@debug_option
@click.pass_context
def command(
    ctx: click.Context,
    artifact: str,
    reference: str | None,
    text: str | None,
    tokens: list[int] | None,
    output: str | None,
    threads: int | None,
    *,
    search: bool,
    as_json: bool,
) -> None:
    """Compare ARTIFACT with the reference interpreter, piece by piece.

    An error is relative, |out - reference| / |reference|, with the reference in float32. The
    tolerance comes from what rounding alone does in the artifact's type. Leaves with exit code 8
    if an error is above its tolerance.

    Example: graphopt verify demo.gopt --reference examples/demo-llama
    """
    from graphopt import api
    from graphopt.errors import DisagreementError

    from . import verdict

    needs(search, "--bisect", {"--repro": output})
    if search:
        refuse("beside --bisect", {"--text": text, "--token-ids": tokens, "--threads": threads})
        from graphopt import bisect_api

        from .bisect import show

        with ProgressReport() as progress:
            found = bisect_api.bisect_artifact(
                artifact, reference=reference, output=output, progress=progress
            )
        show(ctx, found, as_json=as_json)
        return
    with ProgressReport() as progress:
        report = api.verify_artifact(
            artifact,
            reference=reference,
            text=text,
            tokens=tokens,
            threads=threads,
            progress=progress,
        )
    if as_json:
        print_json(report.to_json())
        ctx.exit(0 if report.agrees else DisagreementError.exit_code)
    rows = verdict.rows(report)
    print_table(
        verdict.COLUMNS,
        [verdict.cells(row) for row in rows],
        right=(2, 3, 4),
        styles=["" if row.agrees else "red" for row in rows],
    )
    click.echo(verdict.verdict_line(report))
    if not report.agrees:
        raise verdict.disagreement(report)

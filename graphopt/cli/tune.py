"""``graphopt tune``: the fastest way to run each kernel on the GPU that is here."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from .options import debug_option, json_option
from .output import print_json, print_rows, print_table
from .progress import ProgressReport

if TYPE_CHECKING:
    from graphopt.tune_api import Timing

COLUMNS = ("kernel", "sizes", "timed", "fastest", "model's pick", "PyTorch", "least", "chosen")


@click.command(short_help="Time an artifact's kernels on the GPU that is here.")
@click.argument("artifact", metavar="ARTIFACT")
@click.option("--only", metavar="NAME", default="", help="Only kernels whose name begins so.")
@click.option(
    "-o",
    "--output",
    metavar="FOLDER",
    type=click.Path(file_okay=False),
    help="Where the table of the GPU is. Default: the compiler's own folder.",
)
@json_option
@debug_option
def command(artifact: str, *, only: str, output: str | None, as_json: bool) -> None:
    """Time the candidates of ARTIFACT's kernels on the GPU that is here, and keep the fastest.

    PyTorch is timed beside them where it can compute the same. The next compilation for this kind
    of GPU takes what was found; the ledger says where it did.

    Example: graphopt tune model.gopt --only attention
    """
    from graphopt.tune_api import tune_artifact

    with ProgressReport() as report:
        found = tune_artifact(artifact, folder=output, only=only, progress=report)
    if as_json:
        print_json({**asdict(found), "file": str(found.file)})
        return
    print_table(COLUMNS, [_row(one) for one in found.timings], right=range(2, 7))
    print_rows([("gpu", found.gpu), ("table", str(found.file))])


def _row(one: Timing) -> tuple[object, ...]:
    times = (one.micros, one.pick_micros, one.library_micros, one.least_micros)
    texts = ["" if micros is None else f"{micros:.2f} µs" for micros in times]
    return (one.kernel, one.bucket, one.candidates or "", *texts, one.chosen)

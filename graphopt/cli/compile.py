"""``graphopt compile``: a checkpoint becomes an artifact."""

from __future__ import annotations

import time
from typing import Any

import click

from .options import COMPILE_OPTIONS, compile_options, debug_option, given, json_option
from .output import print_json, print_rows
from .progress import ProgressReport


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
    "--keep-stages", is_flag=True, help="Also keep the graph's text after each pass, in stages/."
)
@json_option
@debug_option
def command(
    checkpoint: str, output: str | None, *, keep_stages: bool, as_json: bool, **options: Any
) -> None:
    """Compile CHECKPOINT into an artifact.

    CHECKPOINT is a folder with config.json and safetensors, or a hub name that is in the local
    hub cache.

    Example: graphopt compile examples/demo-llama -o demo.gopt
    """
    from graphopt import api

    from .summary import compile_rows, summarize

    start = time.monotonic()
    with ProgressReport() as progress:
        artifact = api.compile_checkpoint(
            checkpoint,
            output,
            keep_stages=keep_stages,
            progress=progress,
            **given(options, COMPILE_OPTIONS),
        )
    summary = {**summarize(artifact), "seconds": round(time.monotonic() - start, 2)}
    if as_json:
        print_json(summary)
    else:
        print_rows(compile_rows(summary))

"""``graphopt export``: an artifact becomes a model that other runtimes read."""

from __future__ import annotations

import time
from pathlib import Path

import click

from .options import debug_option, json_option
from .output import human_bytes, print_json, print_rows
from .progress import ProgressReport


@click.command(short_help="Write a model for other runtimes: ONNX.")
@click.argument("model", metavar="ARTIFACT|CHECKPOINT")
@click.option(
    "--onnx",
    is_flag=True,
    required=True,
    help="Write an ONNX model of opset 23 with past and present keys and values.",
)
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="File to write; large weights go into FILE.data beside it.",
)
@click.option(
    "--dtype",
    type=click.Choice(("auto", "float32")),
    default="auto",
    show_default=True,
    help="Type to write: the artifact's own, or everything as float32. Few runtimes compute in "
    "bfloat16 on a CPU.",
)
@json_option
@debug_option
def command(model: str, output: Path, *, onnx: bool, dtype: str, as_json: bool) -> None:
    """Write ARTIFACT, or CHECKPOINT compiled into the cache first, as an ONNX model.

    The tokenizer is copied into FILE's folder where that has none.

    Example: graphopt export demo.gopt --onnx -o demo.onnx --dtype float32
    """
    from graphopt import onnx_api

    start = time.monotonic()
    with ProgressReport() as progress:
        files = onnx_api.export_onnx(model, output, dtype=dtype, progress=progress)
    sizes = {str(file): file.stat().st_size for file in files}
    if as_json:
        print_json({"files": sizes, "seconds": round(time.monotonic() - start, 2)})
    else:
        print_rows([(human_bytes(size), file) for file, size in sizes.items()])

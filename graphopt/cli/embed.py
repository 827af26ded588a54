"""``graphopt embed``: texts in, vectors out."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .options import compile_options, debug_option, engine_options, json_option
from .output import print_json
from .progress import ProgressReport
from .prompts import Prompt, gather_prompts, source_options

if TYPE_CHECKING:
    from graphopt.runtime.outputs import EmbeddingOutput

_HINT = "give a TEXT or --file PATH, or pipe it in"


@click.command(short_help="Turn texts into vectors with a model.")
@click.argument("model", metavar="ARTIFACT|CHECKPOINT")
@click.argument("texts", metavar="[TEXT]...", nargs=-1)
@source_options("text", "They are taken as they are.")
@click.option(
    "--dimensions",
    metavar="N",
    type=click.IntRange(min=1),
    help="Keep the first N entries of each vector. Default: all.",
)
@engine_options
@compile_options
@json_option
@debug_option
def command(
    model: str,
    texts: tuple[str, ...],
    files: tuple[Path, ...],
    token_lists: tuple[list[int], ...],
    *,
    lines: bool,
    dimensions: int | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Turn each TEXT into a vector.

    All texts are computed together. For each of them a line of JSON goes to stdout, with its
    number, its number of tokens and its vector. Without TEXT, --file and --token-ids a text is
    read from stdin. A checkpoint is compiled with --task embed unless told otherwise.

    Example: graphopt embed encoder.gopt "a cat" "a small lion"

    Example: graphopt embed encoder.gopt --file texts.txt --lines --dimensions 256
    """
    from graphopt.artifact import is_artifact
    from graphopt.config import EMBED

    from .session import open_session

    wanted = gather_prompts(texts, files, token_lists, lines=lines, hint=_HINT)
    if options["task"] is None and not is_artifact(Path(model)):
        options["task"] = EMBED
    with open_session(model, options) as session:
        start = time.perf_counter()
        with ProgressReport() as progress:
            outputs = session.llm.embed(wanted, dimensions=dimensions, progress=progress)
        seconds = time.perf_counter() - start
    rows = [_row(index, output) for index, output in enumerate(outputs)]
    tokens = sum(row["tokens"] for row in rows)
    if as_json:
        given = [_given(text, row) for text, row in zip(wanted, rows, strict=True)]
        counts = {"texts": len(rows), "tokens": tokens, "total_s": seconds}
        print_json({"model": model, "embeddings": given, "statistics": counts})
        return
    for row in rows:
        click.echo(json.dumps(row, allow_nan=False))
    noun = "text" if len(rows) == 1 else "texts"
    click.echo(f"graphopt: {len(rows)} {noun}, {tokens} tokens in {seconds:.2f} s", err=True)


def _row(index: int, output: EmbeddingOutput) -> dict[str, Any]:
    """A text's number, size and vector, each entry with the digits that float32 has."""
    vector = [float(str(number)) for number in output.embedding]
    return {"index": index, "tokens": len(output.prompt_token_ids), "embedding": vector}


def _given(text: Prompt, row: dict[str, Any]) -> dict[str, Any]:
    """A row with the text that it is of; tokens stay tokens."""
    as_text = isinstance(text, str)
    named: dict[str, str | Sequence[int]] = {"text" if as_text else "token_ids": text}
    return {**named, **row}

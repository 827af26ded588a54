"""``graphopt generate``: prompts in, text out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .options import (
    compile_options,
    debug_option,
    engine_options,
    json_option,
    sampling_options,
)
from .output import print_json
from .prompts import gather_prompts, source_options

DEFAULT_MAX_TOKENS = 128


@click.command(short_help="Continue prompts with a model.")
@click.argument("model", metavar="ARTIFACT|CHECKPOINT")
@click.option(
    "-p", "--prompt", "prompts", metavar="TEXT", multiple=True, help="A prompt; repeatable."
)
@source_options("prompt", "A checkpoint without a tokenizer needs these, and answers with ids.")
@click.option(
    "--max-tokens",
    metavar="N",
    type=click.IntRange(min=1),
    default=DEFAULT_MAX_TOKENS,
    show_default=True,
    help="Most tokens to generate for each prompt.",
)
@click.option(
    "--n",
    metavar="N",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Independent samples of each prompt.",
)
@sampling_options
@click.option(
    "--logprobs",
    metavar="N",
    type=click.IntRange(min=0),
    help="Report each token's log-probability and the N most likely tokens. Default: do not.",
)
@click.option("--echo", is_flag=True, help="Print the prompt before its continuation.")
@engine_options
@compile_options
@json_option
@debug_option
def command(
    model: str,
    prompts: tuple[str, ...],
    files: tuple[Path, ...],
    token_lists: tuple[list[int], ...],
    *,
    lines: bool,
    n: int,
    logprobs: int | None,
    echo: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Continue prompts.

    One prompt is streamed to stdout as its text comes; several are run as one batch and printed
    at the end. Without --prompt, --file and --token-ids the prompt is read from stdin. Statistics
    go to stderr.

    Example: graphopt generate demo.gopt --prompt "Return the" --max-tokens 32

    Example: graphopt generate demo.gopt --file prompts.txt --lines --json
    """
    from . import generation
    from .session import open_session

    wanted = gather_prompts(prompts, files, token_lists, lines=lines)
    with open_session(model, options) as session:
        params = session.sampling_params(options, n=n, logprobs=logprobs)
        if len(wanted) == 1 and n == 1 and not as_json:
            statistics = generation.stream_one(session, wanted[0], params, echo=echo)
        else:
            outputs, statistics = generation.run_batch(session, wanted, params)
            if as_json:
                print_json(generation.batch_json(model, outputs, statistics))
                return
            generation.print_batch(session, outputs, echo=echo)
    click.echo(f"graphopt: {statistics}", err=True)

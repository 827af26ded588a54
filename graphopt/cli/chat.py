"""``graphopt chat``: a conversation in the terminal, or with what is piped in."""

from __future__ import annotations

from typing import Any

import click

from graphopt.runtime.task import demand_generates

from .options import compile_options, debug_option, engine_options, sampling_options


@click.command()
@click.argument("model", metavar="ARTIFACT|CHECKPOINT")
@click.option("--system", metavar="TEXT", help="The system prompt. Default: none.")
@click.option(
    "--max-tokens",
    metavar="N",
    type=click.IntRange(min=1),
    help="Most tokens of each answer. Default: as many as the context holds.",
)
@sampling_options
@engine_options
@compile_options
@debug_option
def command(model: str, system: str | None, **options: Any) -> None:
    """Talk with a model that has a chat template.

    Answers are streamed. /reset forgets the conversation, /exit or ctrl-D ends it, ctrl-C stops
    an answer. Piped in, every line is a message.

    Example: graphopt chat demo.gopt --temperature 0.7
    """
    from .conversation import Conversation, converse
    from .session import open_session

    with open_session(model, options) as session:
        demand_generates(session.llm.embedding)
        params = session.sampling_params({"max_tokens": None, **options}, max_tokens=None)
        converse(Conversation(session.llm, params, system))

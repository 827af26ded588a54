"""``graphopt serve``: a model behind OpenAI's API."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from graphopt.runtime.server.log_lines import FORMS, LEVELS
from graphopt.runtime.server.settings import Limits, Settings

from .options import (
    COMPILE_OPTIONS,
    ENGINE_OPTIONS,
    compile_options,
    debug_option,
    engine_options,
    given,
)
from .parsing import byte_size

Command = TypeVar("Command", bound=Callable[..., Any])

DEFAULTS = Settings(Path())


def limit_options(command: Command) -> Command:
    """An option for each field of ``Limits``."""
    for one in reversed(dataclasses.fields(Limits)):
        counts = isinstance(one.default, int)
        in_bytes = one.name.endswith("_bytes")
        kind: Any = byte_size if in_bytes else int if counts else float
        command = click.option(
            "--" + one.name.replace("_", "-"),
            metavar="SIZE" if in_bytes else "N" if counts else "SECONDS",
            type=kind,
            default=_size(one.default) if in_bytes else one.default,
            show_default=True,
            help=one.metadata["help"],
        )(command)
    return command


def _size(count: int) -> str:
    return f"{count >> 20}MiB" if count % (1 << 20) == 0 else f"{count >> 10}KiB"


@click.command()
@click.argument("model", metavar="ARTIFACT|CHECKPOINT")
@click.option(
    "--host",
    default=DEFAULTS.host,
    show_default=True,
    help="Address to listen on; 0.0.0.0 for all of this machine's.",
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=DEFAULTS.port,
    show_default=True,
    help="Port to listen on; 0 for one that is free, which the log names.",
)
@click.option(
    "--uds",
    metavar="PATH",
    type=click.Path(path_type=Path),
    help="Listen on a Unix socket instead.",
)
@click.option(
    "--served-model-name",
    "served_names",
    metavar="NAME",
    multiple=True,
    help="What requests call the model; may be repeated, and answers carry the first. "
    "Default: the folder's name.",
)
@click.option(
    "--api-key",
    "api_keys",
    metavar="KEY",
    multiple=True,
    envvar="GRAPHOPT_API_KEY",
    help="Demand this key of requests, on every route but /health and /ready; may be repeated. "
    "Others on this machine see a command line: rather set GRAPHOPT_API_KEY, several keys with "
    "spaces between them. Default: no key.",
)
@click.option(
    "--drain-seconds",
    "drain_s",
    metavar="SECONDS",
    type=click.FloatRange(min=0),
    default=DEFAULTS.drain_s,
    show_default=True,
    help="How long running requests may go on after SIGTERM or ctrl-C; a second one stops at once.",
)
@click.option(
    "--silence-seconds",
    "silence_s",
    metavar="SECONDS",
    type=click.FloatRange(min=0, min_open=True),
    default=DEFAULTS.silence_s,
    show_default=True,
    help="How long an engine that has work may say nothing: then it is stuck, and started again.",
)
@click.option(
    "--scheduling-policy",
    type=click.Choice(("fcfs", "priority")),
    help="Who runs next: whoever came first, or whoever's priority is smallest. Default: fcfs.",
)
@click.option(
    "--seed",
    metavar="N",
    type=click.IntRange(min=0),
    help="Makes requests without a seed of their own reproducible. Default: another one each time.",
)
@click.option(
    "--tool-call-parser",
    metavar="STYLE",
    help="How the model writes tool calls. Default: what its chat template says.",
)
@click.option(
    "--share-prefixes",
    is_flag=True,
    help="Let requests with different API keys share the prefix cache; the time to a first token "
    "then tells what others asked.",
)
@click.option("--no-metrics", is_flag=True, help="Have no route /metrics.")
@click.option("--no-page", is_flag=True, help="Have no page at /.")
@click.option(
    "--log-format",
    type=click.Choice(FORMS),
    default=DEFAULTS.log_format,
    show_default=True,
    help="Lines of the log, on stderr: for people or for programs.",
)
@click.option(
    "--log-level",
    type=click.Choice(LEVELS),
    default=DEFAULTS.log_level,
    show_default=True,
    help="The least that is logged.",
)
@click.option("--log-prompts", is_flag=True, help="Let the log hold prompts.")
@click.option(
    "--otlp-endpoint",
    metavar="URL",
    help="Send OpenTelemetry's spans there. Default: nowhere.",
)
@limit_options
@engine_options
@compile_options
@debug_option
def command(model: str, **options: Any) -> None:
    """Serve a model behind OpenAI's API.

    The log goes to stderr; its line `ready` says where and with how much memory. /health answers
    from the start, /ready once the model is loaded. SIGTERM and ctrl-C finish what runs.

    Example: graphopt serve demo.gopt --port 8000

    Example: GRAPHOPT_API_KEY=secret graphopt serve demo.gopt --host 0.0.0.0
    """
    from graphopt.runtime.server import serve

    click.get_current_context().exit(serve.run(settings_of(model, options)))


def settings_of(model: str, options: dict[str, Any]) -> Settings:
    """What the command line asks for; a checkpoint is compiled on the way.

    Raises:
        GraphoptError: an option makes no sense, or the checkpoint cannot be compiled.
    """
    from graphopt.artifact import is_artifact, read_artifact

    from .apart import compile_apart
    from .session import check_options

    check_options(model, options)
    engine = given(options, (*ENGINE_OPTIONS, "max_model_len", "scheduling_policy", "seed"))
    limits = Limits(**{one.name: options.pop(one.name) for one in dataclasses.fields(Limits)})
    plain = given(options, tuple(one.name for one in dataclasses.fields(Settings)))
    settings = Settings(
        Path(model),
        limits=limits,
        engine_options=engine,
        metrics=not options["no_metrics"],
        page=not options["no_page"],
        **plain,
    )
    path = Path(model)
    if is_artifact(path) or path.suffix == ".gopt":
        dtype = options["dtype"]
        if dtype not in (None, "auto"):
            read_artifact(path, expect={"dtype": dtype}, check_digests=False)
        return settings
    compiled = compile_apart(model, given(options, COMPILE_OPTIONS))
    names = settings.served_names or (path.name or model,)
    return dataclasses.replace(settings, artifact=compiled, served_names=names)

"""The command ``graphopt``: finds a subcommand, runs it, and turns errors into exit codes.

A subcommand's module is imported when it is named, or when ``--help`` lists them all; none imports
PyTorch before it runs.
"""

from __future__ import annotations

import importlib
import os
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

import click

from graphopt import __version__

from .failures import EXIT_BROKEN_PIPE, EXIT_INTERRUPTED, as_failure, as_json, trace_of
from .options import debug_option
from .output import print_json

# Name of a subcommand and the module whose ``command`` it is, in the order of the help text.
COMMANDS: Mapping[str, str] = {
    "compile": "compile",
    "generate": "generate",
    "chat": "chat",
    "embed": "embed",
    "serve": "serve",
    "verify": "verify",
    "bisect": "bisect",
    "inspect": "inspect",
    "export": "export",
    "tune": "tune",
    "bench": "bench",
    "doctor": "doctor",
    "cache": "cache",
}


class LazyGroup(click.Group):
    """A group that imports a subcommand when it is needed, and reports every kind of failure."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of the subcommands in the order of the help text."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The subcommand called ``cmd_name``, or None."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"graphopt.cli.{COMMANDS[cmd_name]}")
        command: click.Command = module.command
        return command

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """Run a command line and leave the process with its exit code."""
        words = list(sys.argv[1:] if args is None else args)
        try:
            result = super().main(
                args,
                prog_name or "graphopt",
                complete_var,
                standalone_mode=False,
                windows_expand_args=windows_expand_args,
                **extra,
            )
        except click.Abort:
            click.echo("graphopt: interrupted", err=True)
            sys.exit(EXIT_INTERRUPTED)
        except Exception as error:  # noqa: BLE001 - the outermost handler: whatever is left is shown
            code = _report(error, words)
            try:
                sys.stdout.flush()
            except OSError:
                _drop_stdout()
            sys.exit(code)
        sys.exit(result if isinstance(result, int) else 0)

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: click.Context | None = None,
        **extra: Any,
    ) -> click.Context:
        """Parse the group's own options, which may print the help."""
        with _closed_pipe_ends():
            return super().make_context(info_name, args, parent, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the subcommand."""
        with _closed_pipe_ends():
            result = super().invoke(ctx)
            sys.stdout.flush()
            return result


@contextmanager
def _closed_pipe_ends() -> Iterator[None]:
    """A reader of stdout that is gone ends the program without a word."""
    try:
        yield
    except BrokenPipeError as error:
        _drop_stdout()
        raise click.exceptions.Exit(EXIT_BROKEN_PIPE) from error


def _drop_stdout() -> None:
    """Let what stdout did not take go nowhere: the interpreter flushes once more on its way out."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _report(error: Exception, words: Sequence[str]) -> int:
    """Show ``error`` as the command line asks: with its traceback, as JSON, or as text."""
    # The options are looked up in the words, since the error may be that they cannot be parsed.
    options = words[: words.index("--")] if "--" in words else words
    debug = "--debug" in options
    failure = as_failure(error, debug=debug)
    if debug:
        with suppress(OSError):
            click.echo(trace_of(error), err=True)
    try:
        if "--json" in options:
            print_json(as_json(failure))
            sys.stdout.flush()
            return failure.exit_code
    except OSError:
        pass  # stdout itself may be what failed; stderr is left
    with suppress(OSError):
        click.echo(f"graphopt: {failure}", err=True)
    return failure.exit_code


@click.group(
    "graphopt",
    cls=LazyGroup,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, "-V", "--version", message="graphopt %(version)s")
@debug_option
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Compile a language-model checkpoint into an artifact, check it, and generate text with it.

    CHECKPOINT is a Hugging Face checkpoint: a folder, or a hub name that is in the local hub cache.
    ARTIFACT is a folder that `graphopt compile` wrote. Wherever ARTIFACT|CHECKPOINT stands, a
    checkpoint is compiled into the cache first.

    Exit codes: 0 success, 2 usage, 3 checkpoint, 4 unsupported model or feature, 5 compilation,
    6 artifact, 7 request, 8 numbers disagree, 9 the machine lacks something, 70 a defect,
    130 interrupted.
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def _quiet_libraries(words: Sequence[str]) -> None:
    """Keep advice that is meant for programmers off the terminal, unless in ``--debug``."""
    if "--debug" in words:
        return
    warnings.simplefilter("ignore")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def _open_streams() -> None:
    """Give a process that was started without some standard stream one that leads nowhere.

    Else the next file that is opened would take its number, and be read or written as the stream.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115


def main() -> NoReturn:
    """The console script."""
    _open_streams()
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot show a character shows a question mark instead of a traceback.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    _quiet_libraries(sys.argv[1:])
    cli()
    raise SystemExit(0)


if __name__ == "__main__":
    main()

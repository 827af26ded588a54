"""From any exception to what the user sees: a message, as text or as JSON, and an exit code."""

from __future__ import annotations

import traceback
from typing import Any

import click

from graphopt.errors import GraphoptError, UsageError
from graphopt.failures import typed

EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells count
EXIT_BROKEN_PIPE = 141  # 128 + SIGPIPE


def as_failure(error: Exception, *, debug: bool = False) -> GraphoptError:
    """``error`` itself if it was raised on purpose, else the error that stands for it.

    ``debug`` says that the traceback is shown beside it.
    """
    if isinstance(error, click.ClickException):
        return _from_click(error)
    return typed(error, next=None if debug else "run again with --debug to see where")


def _from_click(error: click.ClickException) -> GraphoptError:
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "graphopt"
    what = error.format_message().removesuffix(".")
    if isinstance(error, click.FileError):
        return UsageError(what)
    return UsageError(what[:1].lower() + what[1:], next=f"see: {command} --help")


def as_json(failure: GraphoptError) -> dict[str, Any]:
    """The failure as plain data; absent rows are None."""
    return {
        "error": {
            "type": type(failure).__name__,
            "what": failure.what,
            "at": failure.where,
            "got": failure.got,
            "expected": failure.expected,
            "next": failure.next,
            "exit_code": failure.exit_code,
        }
    }


def trace_of(error: Exception) -> str:
    """The traceback that ``--debug`` shows."""
    return "".join(traceback.format_exception(error))

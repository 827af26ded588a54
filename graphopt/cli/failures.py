"""From any exception to what the user sees: a message, as text or as JSON, and an exit code."""

from __future__ import annotations

import errno
import traceback
from typing import Any

import click

from graphopt.errors import GraphoptError, MachineError, UsageError

EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells count
EXIT_BROKEN_PIPE = 141  # 128 + SIGPIPE
EXIT_UNEXPECTED = 70  # EX_SOFTWARE of sysexits.h


# What the system refuses, wherever it happens, and what that means.
_OF_THE_MACHINE = {
    errno.ENOSPC: "the disk is full",
    errno.EFBIG: "the file would be too large",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "nothing can be written there",
    errno.EACCES: "the system does not permit it",
    errno.EPERM: "the system does not permit it",
    errno.EMFILE: "too many files are open",
    errno.ENFILE: "too many files are open",
    errno.ENOMEM: "memory ran out",
    errno.EIO: "reading or writing failed",
}


class UnexpectedError(GraphoptError):
    """An exception that nobody raised on purpose: a defect of graphopt or of a library."""

    exit_code = EXIT_UNEXPECTED


def as_failure(error: Exception, *, debug: bool = False) -> GraphoptError:
    """``error`` itself if it was raised on purpose, else the error that stands for it.

    ``debug`` says that the traceback is shown beside it.
    """
    if isinstance(error, GraphoptError):
        return error
    if isinstance(error, click.ClickException):
        return _from_click(error)
    if isinstance(error, MemoryError):
        return MachineError(
            "memory ran out",
            got=str(error) or None,
            next="close other programs, or see: graphopt doctor",
        )
    if isinstance(error, OSError) and error.errno in _OF_THE_MACHINE:
        return MachineError(
            _OF_THE_MACHINE[error.errno],
            where=None if error.filename is None else str(error.filename),
            got=error.strerror,
        )
    text = " ".join(str(error).split())
    name = type(error).__name__
    return UnexpectedError(
        f"unexpected {name}: {text}" if text else f"unexpected {name}",
        next=None if debug else "run again with --debug to see where",
    )


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

"""Every error a user can meet: what happened, where, got, expected, and what to do next.

The command line prints ``str(error)`` and leaves with ``error.exit_code``; a traceback is shown
only with ``--debug``. An exit code names a kind of failure, so that scripts can tell them apart.
"""

from __future__ import annotations


class GraphoptError(Exception):
    """The base of all errors raised on purpose.

    Args:
        what: one sentence that says what cannot be done.
        where: module path, file and line, or file name.
        got: what was found.
        expected: what would have been accepted.
        next: what the user can do about it.
    """

    exit_code = 1

    def __init__(
        self,
        what: str,
        *,
        where: str | None = None,
        got: object = None,
        expected: object = None,
        next: str | None = None,
    ) -> None:
        self.what = what
        self.where = where
        self.got = None if got is None else str(got)
        self.expected = None if expected is None else str(expected)
        self.next = next
        super().__init__(what)

    def __str__(self) -> str:
        rows = (
            ("at", self.where),
            ("got", self.got),
            ("expected", self.expected),
            ("next", self.next),
        )
        lines = [self.what]
        for label, text in rows:
            if text is not None:
                indented = text.replace("\n", "\n" + " " * 11)
                lines.append(f"  {label:<8} {indented}")
        return "\n".join(lines)


class UsageError(GraphoptError):
    """A command line or an argument that makes no sense."""

    exit_code = 2


class CheckpointError(GraphoptError):
    """A checkpoint folder that is missing, damaged or inconsistent."""

    exit_code = 3


class UnsupportedError(GraphoptError):
    """A model or a feature that graphopt refuses, because it would not be right."""

    exit_code = 4


class TraceError(UnsupportedError):
    """A model whose computation could not be traced into one graph."""


class IRError(GraphoptError):
    """A graph that breaks the language's rules."""

    exit_code = 5


class ParseError(IRError):
    """A text that is not a graph."""


class VerifyError(IRError):
    """A graph that is not well formed."""


class CompileError(GraphoptError):
    """A pass or a code generator that could not do its work."""

    exit_code = 5


class ArtifactError(GraphoptError):
    """An artifact that is damaged, or does not fit this machine or this version."""

    exit_code = 6


class RequestError(GraphoptError):
    """A request whose parameters are invalid."""

    exit_code = 7


class CapacityError(RequestError):
    """A request that can never fit into the memory or the context there is."""


class DisagreementError(GraphoptError):
    """Numbers that differ from the reference by more than the tolerance."""

    exit_code = 8


class MachineError(GraphoptError):
    """A machine that lacks something: a compiler, memory, disk, a device."""

    exit_code = 9


class DeviceLostError(MachineError):
    """A device that does not answer any more: only another process may get it back."""


class EngineGoneError(MachineError):
    """The engine process died, or has not loaded its model yet; a request may be sent again."""


class OverloadedError(GraphoptError):
    """More requests than the server takes at once; one may be sent again later."""

    exit_code = 9


class UnexpectedError(GraphoptError):
    """An exception that nobody raised on purpose: a defect of graphopt or of a library."""

    exit_code = 70  # EX_SOFTWARE of sysexits.h

"""From any exception to a typed error: what was raised on purpose stays, the rest is named."""

from __future__ import annotations

import errno

from graphopt.errors import GraphoptError, MachineError, UnexpectedError

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


def typed(error: Exception, *, next: str | None = None) -> GraphoptError:
    """``error`` itself if it was raised on purpose, else the error that stands for it.

    Args:
        error: anything that was raised.
        next: what to do about a defect.
    """
    if isinstance(error, GraphoptError):
        return error
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
        f"unexpected {name}: {text}" if text else f"unexpected {name}", next=next
    )

"""Compiling in a process of its own, so that the one that asks never imports PyTorch."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from graphopt.errors import CompileError
from graphopt.lifeline import end_with_parent
from graphopt.runtime.server.wire import WireError


class _Order(msgspec.Struct):
    """What to compile; sent to the process."""

    model: str
    options: dict[str, Any]
    parent: int


class _Done(msgspec.Struct):
    """What came of it; sent back."""

    path: str | None = None
    error: WireError | None = None


def compile_apart(model: str, options: Mapping[str, Any]) -> Path:
    """The artifact of a checkpoint, compiled into the cache first if it is not there.

    Args:
        model: a checkpoint.
        options: arguments of ``api.open_artifact``.

    Raises:
        GraphoptError: as ``api.open_artifact``.
    """
    reads, writes = os.pipe()
    with open(reads, "rb") as answer:
        with open(writes, "wb"):
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", __name__, str(writes)],
                stdin=subprocess.PIPE,
                stdout=sys.stderr.fileno(),  # a compiler may print; our stdout is ours
                pass_fds=(writes,),
            )
        with process:
            process.communicate(msgspec.json.encode(_Order(model, dict(options), os.getpid())))
            data = answer.read()
    if process.returncode or not data:
        raise CompileError("the compiling process died", got=f"exit code {process.returncode}")
    done = msgspec.json.decode(data, type=_Done)
    if done.error is not None:
        raise done.error.error()
    return Path(done.path or "")


def main(descriptor: int) -> None:
    """Compile what stdin says, and answer at ``descriptor``."""
    from graphopt import api
    from graphopt.failures import typed

    from .failures import EXIT_INTERRUPTED
    from .progress import ProgressReport

    order = msgspec.json.decode(sys.stdin.buffer.read(), type=_Order)
    end_with_parent(order.parent)
    try:
        with ProgressReport() as progress:
            artifact = api.open_artifact(order.model, progress=progress, **order.options)
        done = _Done(path=str(artifact.path))
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)  # the terminal has interrupted the parent, too
    except Exception as error:  # noqa: BLE001 (the parent says what it was)
        done = _Done(error=WireError.of(typed(error)))
    with open(descriptor, "wb") as answer:
        answer.write(msgspec.json.encode(done))


if __name__ == "__main__":
    main(int(sys.argv[1]))

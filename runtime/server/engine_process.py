"""The engine process: ``python -m graphopt.runtime.server.engine_process FD``.

FD is one end of a socket pair, inherited, so that nobody else can connect. Its first message says
what to load. The process lives as long as its parent and no longer. Signals from the terminal or a
service manager are the parent's business: it drains first, and then says when to go.
"""

from __future__ import annotations

import faulthandler
import gc
import os
import signal
import socket
import sys
import traceback

from graphopt.artifact import read_artifact
from graphopt.errors import DeviceLostError, GraphoptError, UsageError
from graphopt.failures import typed
from graphopt.lifeline import end_with_parent

from ..loading import Loaded, LoadOptions, load_engine
from .engine_loop import CHUNK_BYTES, EngineLoop
from .seal import demand_same
from .wire import Failed, Inbox, Loading, Open, Opened, ToEngine, WireError, encode


def main(arguments: list[str]) -> int:
    """Serve at the socket that ``arguments`` name; returns the process's exit code."""
    faulthandler.enable()
    for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(one, signal.SIG_IGN)
    end_with_parent()
    with socket.socket(fileno=int(arguments[0])) as sock:
        return serve(sock)


def serve(sock: socket.socket) -> int:
    """Load what the first message names and run it; returns the process's exit code."""
    try:
        inbox = Inbox(ToEngine)
        opening = _first_message(sock, inbox)
        if opening is None:
            return 0
        loaded = _load(sock, opening)
        try:
            sock.sendall(encode(_opened(loaded)))
            gc.collect()
            gc.freeze()  # what is loaded stays: later collections need not look at it
            EngineLoop(loaded.engine, loaded.memory.num_blocks, sock, inbox).run()
        except DeviceLostError as error:
            _tell(sock, error)  # before closing, which may wait for the device
            return error.exit_code
        finally:
            loaded.close()
    except (BrokenPipeError, ConnectionError):
        return 0  # the parent is gone
    except Exception as error:  # noqa: BLE001 (the parent says what it was)
        cause = typed(error)
        if cause is not error:
            traceback.print_exc()
        _tell(sock, cause)
        return cause.exit_code
    return 0


def _first_message(sock: socket.socket, inbox: Inbox) -> Open | None:
    """What to load; None if the parent left without a word."""
    found: list[ToEngine] = []
    while not found:
        data = sock.recv(CHUNK_BYTES)
        if not data:
            return None
        found = inbox.push(data)
    if len(found) > 1 or not isinstance(found[0], Open):
        raise UsageError("the first message must say what to load", got=type(found[0]).__name__)
    return found[0]


def _load(sock: socket.socket, opening: Open) -> Loaded:
    def report(what: str, done: int, total: int) -> None:
        sock.sendall(encode(Loading(what, done, total)))

    try:
        options = LoadOptions(**opening.options)
    except TypeError as error:
        raise UsageError("an engine option is unknown", got=error) from error
    report("opening the artifact", 0, 0)
    artifact = read_artifact(opening.artifact)
    demand_same(artifact.manifest, opening.seal, opening.artifact)
    return load_engine(artifact, options, gives_text=False, progress=report)


def _opened(loaded: Loaded) -> Opened:
    embedding = loaded.plan.embedding
    return Opened(
        vocab_size=loaded.plan.limits.vocab_size,
        max_model_len=loaded.engine.scheduler.context_limit,
        max_num_seqs=loaded.limits.max_num_seqs,
        block_size=loaded.plan.block_size,
        num_blocks=loaded.memory.num_blocks,
        memory=str(loaded.memory),
        embedding_size=0 if embedding is None else embedding.dimensions,
    )


def _tell(sock: socket.socket, error: GraphoptError) -> None:
    """Say why the process ends, if somebody listens."""
    try:
        sock.sendall(encode(Failed(WireError.of(error))))
    except OSError:
        print(error, file=sys.stderr)


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # a device that hangs would be waited for on the usual way out

"""A server as its users start it: ``graphopt serve`` in a process of its own, on a free port."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from socket import socket

DEADLINE_S = 120.0


@dataclass(frozen=True, slots=True)
class Served:
    """A running server.

    Attributes:
        url: where it listens, without a path.
        model: what requests call its model.
        process: the process that answers HTTP.
        log: what it writes.
    """

    url: str
    model: str
    process: subprocess.Popen[bytes]
    log: Path


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
    return port


def fetch(url: str) -> tuple[int, bytes]:
    """Status and body of a GET; status 0 while nobody answers."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()
    except OSError:
        return 0, b""


@contextmanager
def serve(artifact: Path, *options: str) -> Iterator[Served]:
    """Start a server, wait until it serves, and end it as an operator does.

    Raises:
        TimeoutError: it did not serve in time; with the end of its log.
    """
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    log = artifact.parent / f"server-{port}.log"
    words = (sys.executable, "-m", "graphopt", "serve", str(artifact), "--port", str(port))
    with log.open("wb") as stream:
        process = subprocess.Popen(
            (*words, *options),
            stdout=stream,
            stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
    try:
        deadline = time.monotonic() + DEADLINE_S
        while fetch(f"{url}/ready")[0] != 200:
            if process.poll() is not None or time.monotonic() > deadline:
                raise TimeoutError(f"no server: {log.read_text()[-4000:]}")
            time.sleep(0.1)
        yield Served(url, artifact.name.removesuffix(".gopt"), process, log)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise

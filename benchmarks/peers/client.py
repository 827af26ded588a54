"""The other end of a worker's pipe."""

from __future__ import annotations

import json
import os
import select
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

from benchmarks.peers.catalogue import Peer

ROOT = Path(__file__).parent.parent.parent
TIMEOUT_S = 900.0


class PeerError(Exception):
    """An engine could not do what it was asked; the message is its own."""


class Client:
    """A peer's process, from its start to its end.

    Args:
        peer: what runs.
        threads: how many compute.
        sequences: most sequences at once.
        context: longest prompt and output together.
        timeout_s: how long an answer may take.
    """

    def __init__(
        self,
        peer: Peer,
        threads: int,
        sequences: int,
        context: int,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        self.peer = peer
        self._timeout_s = timeout_s
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (closed with the process)
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": str(threads),
            "MKL_NUM_THREADS": str(threads),
            "HF_HUB_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "false",
        }
        sizes = {"--threads": threads, "--sequences": sequences, "--context": context}
        options = [text for name, value in sizes.items() for text in (name, str(value))]
        self.started_s = time.perf_counter()
        self._process = subprocess.Popen(
            [
                str(peer.python),
                *("-m", "benchmarks.peers.worker", peer.engine, str(peer.model)),
                *options,
            ],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=environment,
        )
        self._left = b""

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Ask, and wait for the answer.

        Raises:
            PeerError: the engine failed, ended or took too long.
        """
        self.send(do, **arguments)
        return self.receive()

    def send(self, do: str, **arguments: Any) -> None:
        """Ask without waiting; requests are answered in turn."""
        line = json.dumps({"do": do, **arguments}).encode() + b"\n"
        stdin = self._process.stdin
        try:
            if stdin is not None:
                stdin.write(line)
                stdin.flush()
        except BrokenPipeError:
            raise PeerError(self._last_words()) from None

    def receive(self) -> dict[str, Any]:
        """The next answer.

        Raises:
            PeerError: as `ask`.
        """
        answer = json.loads(self._line())
        if "error" in answer:
            raise PeerError(answer["error"])
        found: dict[str, Any] = answer["found"]
        return found

    def cpu_s(self) -> float:
        """Seconds of all cores that the process has used so far; zero once it has ended."""
        try:
            times = psutil.Process(self._process.pid).cpu_times()
        except psutil.Error:
            return 0.0
        return times.user + times.system

    def close(self) -> None:
        """End the process. May be called twice."""
        if self._process.stdin is not None and not self._process.stdin.closed:
            try:
                self._process.stdin.close()
            except BrokenPipeError:
                self._process.kill()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._errors.close()

    def _line(self) -> bytes:
        """The next line, without waiting for ever."""
        stdout = self._process.stdout
        if stdout is None:
            raise PeerError("the process has no output")
        deadline = time.monotonic() + self._timeout_s
        while b"\n" not in self._left:
            ready, _, _ = select.select([stdout], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                self._process.kill()
                raise PeerError(f"no answer after {self._timeout_s:.0f} s")
            chunk = os.read(stdout.fileno(), 1 << 16)
            if not chunk:
                raise PeerError(self._last_words())
            self._left += chunk
        line, _, self._left = self._left.partition(b"\n")
        return line

    def _last_words(self) -> str:
        """Why the process ended, as far as it said so."""
        code = self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return f"the process ended with {code}: {lines[-1][:300] if lines else 'no message'}"

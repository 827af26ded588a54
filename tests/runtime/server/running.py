"""Engines and servers in processes of their own, for as long as a test needs them."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx

from graphopt.runtime.server.engine_client import EngineAnswer, EngineClient
from graphopt.runtime.server.supervisor import Supervisor
from graphopt.runtime.server.wire import Opened

SMALL = {"threads": 1, "kv_cache_memory": 1 << 24, "seed": 0}
START_S = 60.0


class Running:
    """An engine that serves.

    Attributes:
        client: asks it.
        supervisor: keeps it running.
    """

    def __init__(self, artifact: Path, options: dict[str, Any], **more: Any) -> None:
        self._opened = asyncio.Queue[Opened]()
        self.client = EngineClient()
        self.supervisor = Supervisor(
            self.client, artifact, options, on_opened=self._opened.put_nowait, **more
        )
        self.task = asyncio.create_task(self.supervisor.run())

    async def opened(self) -> Opened:
        """Wait until an engine has started; each start is told once."""
        waiting = asyncio.ensure_future(self._opened.get())
        done, _ = await asyncio.wait(
            {waiting, self.task}, timeout=START_S, return_when=asyncio.FIRST_COMPLETED
        )
        assert done, "the engine did not start in time"
        if waiting not in done:
            waiting.cancel()
            self.task.result()
        return waiting.result()


@asynccontextmanager
async def running_engine(
    artifact: Path, options: dict[str, Any] | None = None, **more: Any
) -> AsyncIterator[Running]:
    """An engine that serves ``artifact``, with one thread and little memory."""
    running = Running(artifact, {**SMALL, **(options or {})}, **more)
    try:
        await running.opened()
        yield running
    finally:
        await running.supervisor.stop()
        await asyncio.wait({running.task})


async def tokens_of(answer: EngineAnswer, index: int = 0) -> list[int]:
    """All tokens of one sample."""
    return [
        token
        async for parts in answer
        for part in parts
        if part.index == index
        for token in part.token_ids
    ]


class Served:
    """``graphopt serve`` as a user starts it.

    Attributes:
        process: the HTTP process.
        url: where it listens; empty until it says so.
        lines: of its log.
    """

    def __init__(self, model: Path, *words: object, **environment: str) -> None:
        small = ("--threads", 1, "--kv-cache-memory", "16MiB", "--seed", 0, "--port", 0)
        command = [sys.executable, "-m", "graphopt", "serve", model, *small, *words]
        self.process = subprocess.Popen(
            [str(one) for one in command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment},
        )
        self.url = ""
        self.lines: list[str] = []
        self._news = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        with suppress(ValueError):  # a test may close it
            for line in self.process.stderr:
                with self._news:
                    self.lines.append(line.rstrip())
                    self._news.notify_all()
        with self._news:
            self._news.notify_all()

    @property
    def log(self) -> str:
        """What it has logged so far."""
        return "\n".join(self.lines)

    @property
    def engine_pid(self) -> int:
        """Its engine process, the youngest of its children."""
        tasks = Path(f"/proc/{self.process.pid}/task").iterdir()
        found = [int(pid) for task in tasks for pid in (task / "children").read_text().split()]
        return max(found)

    def says(self, pattern: str, count: int = 1) -> str:
        """Wait until a pattern has been logged so many times; the last such line."""
        with self._news:
            reached = self._news.wait_for(
                lambda: len(self._with(pattern)) >= count or not self._reader.is_alive(), START_S
            )
            found = self._with(pattern)
        assert reached, self.log
        assert len(found) >= count, self.log
        return found[count - 1]

    def _with(self, pattern: str) -> list[str]:
        return [line for line in self.lines if re.search(pattern, line)]

    def listens(self) -> str:
        """Wait until it listens; its address."""
        self.url = re.search(r"url=(\S+)", self.says("info +listening"))[1]
        return self.url

    def ready(self, count: int = 1) -> str:
        """Wait until the model is loaded; its address."""
        self.says("info +ready", count)
        return self.listens()

    def get(self, path: str, **more: Any) -> httpx.Response:
        """Ask with GET."""
        return httpx.get(self.url + path, timeout=START_S, **more)

    def complete(self, **fields: Any) -> httpx.Response:
        """Ask for a completion, greedy and short."""
        body = {"prompt": "def main(", "max_tokens": 8, "temperature": 0, **fields}
        return httpx.post(f"{self.url}/v1/completions", json=body, timeout=START_S)

    def stream(self, **fields: Any) -> Any:
        """Ask for a completion event by event; a context manager."""
        body = {"prompt": "def main(", "temperature": 0, "stream": True, **fields}
        return httpx.stream("POST", f"{self.url}/v1/completions", json=body, timeout=START_S)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and wait for the end; its exit code."""
        self.process.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        """Wait for the end; its exit code."""
        code = self.process.wait(START_S)
        self._reader.join(START_S)
        return code


@contextmanager
def served(model: Path, *words: object, **environment: str) -> Iterator[Served]:
    """A server that was started with ``words``, whether it listens already or not."""
    found = Served(model, *words, **environment)
    try:
        yield found
    finally:
        found.process.kill()
        found.wait()
        found.process.stdout.close()


def until(true: Callable[[], bool], seconds: float = 20.0) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not become so"
        time.sleep(0.01)

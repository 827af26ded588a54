"""One engine process, from its start to its end, as its parent holds it."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
import time
from collections import deque
from dataclasses import dataclass
from typing import BinaryIO

from graphopt.errors import EngineGoneError, GraphoptError

from .engine_client import EngineClient, Link
from .wire import Open

MODULE = "graphopt.runtime.server.engine_process"
# Lines of its output that may explain its death, and how long before it they may stand.
LAST_WORDS = 12
LAST_S = 2.0
LEAVE_S = 5.0  # how long a process may take to end after its socket did

log = logging.getLogger("graphopt.engine")


@dataclass(frozen=True, slots=True)
class Output:
    """A pipe for what a process prints.

    Attributes:
        writer: the process's end.
        reader: our end.
        transport: closes it.
    """

    writer: BinaryIO
    reader: asyncio.StreamReader
    transport: asyncio.ReadTransport

    @classmethod
    async def open(cls) -> Output:
        """A new pipe."""
        reads, writes = os.pipe()
        reader = asyncio.StreamReader()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(reads, "rb", buffering=0)
        )
        return cls(os.fdopen(writes, "wb"), reader, transport)


class Child:
    """A running engine process.

    Attributes:
        link: the connection with it.
        pid: its number.
    """

    def __init__(self, process: asyncio.subprocess.Process, link: Link, output: Output) -> None:
        self.link = link
        self.pid = process.pid
        self._process = process
        self._pipe = output
        self._last_words: deque[tuple[float, str]] = deque(maxlen=LAST_WORDS)
        self._output = asyncio.create_task(self._read_output())

    @classmethod
    async def start(cls, client: EngineClient, opening: Open) -> Child:
        """Start a process that loads what ``opening`` says.

        It has a session of its own, so that ctrl-C at the terminal reaches its parent alone.
        """
        ours, theirs = socket.socketpair()
        output = await Output.open()
        with theirs, output.writer as writer:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-P",  # what lies in the working directory is not imported
                "-m",
                MODULE,
                str(theirs.fileno()),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=writer,
                stderr=writer,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
                env={name: value for name, value in os.environ.items() if "API_KEY" not in name},
            )
        return cls(process, await client.connect(ours, opening), output)

    def kill(self) -> None:
        """End it now, whatever it does."""
        if self._process.returncode is None:
            self._process.kill()

    async def end(self) -> GraphoptError:
        """Wait for its end, which comes soon once the connection is lost; returns the reason."""
        failure = await self.link.lost
        try:
            await asyncio.wait_for(self._process.wait(), LEAVE_S)
        except TimeoutError:
            self.kill()
        code = await self._process.wait()
        await asyncio.wait({self._output}, timeout=LEAVE_S)
        self._output.cancel()  # what the process itself started may hold the other end
        self._pipe.transport.close()
        if failure is not None:
            return failure
        since_s = time.monotonic() - LAST_S
        words = "\n".join(text for when_s, text in self._last_words if when_s > since_s)
        how = _how_it_ended(code)
        return EngineGoneError("the engine process died", got=f"{how}\n{words}" if words else how)

    async def _read_output(self) -> None:
        """Log what the process prints."""
        rest = b""
        while data := await self._pipe.reader.read(1 << 16):
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                self._log(line)
        if rest:
            self._log(rest)

    def _log(self, line: bytes) -> None:
        text = line.decode(errors="replace").rstrip()
        if text:
            self._last_words.append((time.monotonic(), text))
            log.warning("%s", text)


def _how_it_ended(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"

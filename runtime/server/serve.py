"""A server from its start to its end: sockets, the engine, HTTP, signals.

``/health`` answers while the model loads. SIGTERM or SIGINT drains: new requests are refused and
running ones finish, up to ``drain_s``; a second one stops at once.
"""

from __future__ import annotations

import asyncio
import gc
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager

import uvicorn
import uvloop

from graphopt.artifact import read_artifact
from graphopt.embedding import Embedding

from ..words import Words
from .admission import Admission
from .app import create_app
from .engine_client import EngineClient
from .guard import Guard, HttpServer, guarded
from .listen import allow_files, listen_at, listen_on, remove, url_of
from .seal import seal_of
from .settings import Settings
from .supervisor import Supervisor
from .telemetry import Telemetry
from .wire import Opened

LEAVE_S = 2.0  # how long the engine, and then open connections, may take to close


def run(settings: Settings) -> int:
    """Serve until a signal says to stop; returns the process's exit code.

    Raises:
        ArtifactError: there is no artifact, or it does not fit.
        MachineError: the port is in use, there is too little memory, the engine kept dying.
        UsageError: an option makes no sense.
    """
    artifact = read_artifact(settings.artifact, check_digests=False)  # the engine compares them
    words = Words.load(
        artifact.tokenizer_dir,
        artifact.generation_defaults,
        artifact.plan.limits.vocab_size,
        settings.engine_options.get("generation_config", "auto"),
    )
    telemetry = Telemetry.of(settings, artifact.plan.target, sys.stderr)
    with (
        closing(telemetry),
        telemetry.lines.adopted(),
        _listening(settings) as sockets,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        seal = seal_of(artifact.manifest)
        embedding = artifact.plan.embedding
        return runner.run(_serve(settings, words, embedding, seal, telemetry, sockets))


async def _serve(
    settings: Settings,
    words: Words,
    embedding: Embedding | None,
    seal: str,
    telemetry: Telemetry,
    sockets: list[socket.socket],
) -> int:
    return await _Server(settings, words, embedding, seal, telemetry, sockets).run()


class _Server:
    """One server, made inside its event loop."""

    def __init__(
        self,
        settings: Settings,
        words: Words,
        embedding: Embedding | None,
        seal: str,
        telemetry: Telemetry,
        sockets: list[socket.socket],
    ) -> None:
        self._settings = settings
        self._lines = telemetry.lines
        self._sockets = sockets
        self._urls = [url_of(one) for one in sockets]
        client = EngineClient(telemetry.observer)
        options = dict(settings.engine_options)
        self._supervisor = Supervisor(
            client,
            settings.artifact,
            options,
            seal=seal,
            on_opened=self._say_ready,
            silence_s=settings.silence_s,
        )
        app = create_app(settings, client, words, telemetry.observer, embedding)
        has_chat = words.tokenizer is not None and words.tokenizer.has_chat_template
        app.include_router(telemetry.routes(settings, chat=has_chat, embeds=embedding is not None))
        self._admission: Admission = app.state.admission
        self._http = HttpServer(_uvicorn_config(app, settings))
        self._signals: list[int] = []
        self._first, self._second = asyncio.Event(), asyncio.Event()

    async def run(self) -> int:
        """Serve; returns the exit code."""
        loop = asyncio.get_running_loop()
        for one in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(one, self._on_signal, one)
        self._say_listening()
        gc.freeze()  # what was made so far stays: later collections need not look at it
        engine = asyncio.create_task(self._supervisor.run())
        http = asyncio.create_task(self._http.serve(self._sockets))
        asked = asyncio.create_task(self._first.wait())
        try:
            await asyncio.wait({engine, http, asked}, return_when=asyncio.FIRST_COMPLETED)
            if asked.done():
                await self._drain(engine)
        finally:
            asked.cancel()
            await self._stop(http)
        await engine  # raises why it could not go on
        await http
        return 128 + self._signals[-1] if self._second.is_set() else 0

    async def _drain(self, engine: asyncio.Task[None]) -> None:
        """Let running requests finish, up to a limit, or until another signal."""
        self._admission.drain()
        self._lines.write(
            "info",
            "draining",
            requests=self._admission.requests,
            seconds=self._settings.drain_s,
        )
        idle = asyncio.create_task(self._admission.until_idle())
        again = asyncio.create_task(self._second.wait())
        await asyncio.wait(
            {idle, again, engine},
            timeout=self._settings.drain_s,
            return_when=asyncio.FIRST_COMPLETED,
        )
        idle.cancel()
        again.cancel()

    async def _stop(self, http: asyncio.Task[None]) -> None:
        """End the engine, which fails what is unfinished, and close every connection."""
        self._admission.drain()
        at_once = self._second.is_set()
        await self._supervisor.stop(0.0 if at_once else LEAVE_S)
        self._http.should_exit = True
        self._http.force_exit = at_once
        await asyncio.wait({http})
        self._lines.write("info", "stopped")

    def _on_signal(self, number: int) -> None:
        self._signals.append(number)
        (self._second if self._first.is_set() else self._first).set()

    def _say_listening(self) -> None:
        self._lines.write("info", "listening", url=self._urls)
        if not self._settings.is_loopback and not self._settings.api_keys:
            self._lines.write(
                "warning", "open", message="whoever reaches this address is served: no --api-key"
            )

    def _say_ready(self, opened: Opened) -> None:
        self._lines.write(
            "info",
            "ready",
            url=self._urls,
            model=self._settings.names[0],
            context=opened.max_model_len,
            dimensions=opened.embedding_size or None,
            memory=opened.memory,
        )


def _uvicorn_config(app: object, settings: Settings) -> uvicorn.Config:
    limits = settings.limits
    most = allow_files(limits.max_connections)
    return uvicorn.Config(
        app,  # type: ignore[arg-type]
        http=guarded(Guard(most, limits.max_head_s, limits.max_head_bytes)),  # type: ignore[arg-type]
        ws="none",
        lifespan="auto",
        interface="asgi3",
        log_config=None,
        log_level="error",  # what a client did wrong is in the requests' log
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=limits.max_idle_s,  # type: ignore[arg-type]
        timeout_graceful_shutdown=LEAVE_S,  # type: ignore[arg-type]
    )


@contextmanager
def _listening(settings: Settings) -> Iterator[list[socket.socket]]:
    """The sockets that are listened on; a Unix socket is taken away at the end."""
    if settings.uds is None:
        sockets = listen_on(settings.host, settings.port)
        try:
            yield sockets
        finally:
            for one in sockets:
                one.close()
        return
    with listen_at(settings.uds) as one:
        made = settings.uds.lstat()
        try:
            yield [one]
        finally:
            remove(settings.uds, made)

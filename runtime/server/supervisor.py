"""Keeps an engine process running: starts it, starts it anew after its death, ends it.

An engine that cannot load its model the first time is an operator's mistake and ends the server
with the reason. Later a death ends the requests in flight, and the next process starts at once;
three deaths within a minute are no accident.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from graphopt.errors import GraphoptError, MachineError
from graphopt.failures import typed

from .child import Child
from .engine_client import EngineClient
from .settings import SILENCE_S
from .wire import Open, Opened

DEATHS = 3
WITHIN_S = 60.0
TICK_S = 1.0

log = logging.getLogger("graphopt.engine")


class Supervisor:
    """Runs engine processes, one after the other, for a client.

    Args:
        client: told of each process.
        artifact: what to load.
        options: fields of ``LoadOptions``.
        seal: of the artifact; see ``seal_of``.
        on_opened: called whenever an engine takes requests.
        silence_s: how long an engine that has work may say nothing before it is ended.
    """

    def __init__(
        self,
        client: EngineClient,
        artifact: Path,
        options: Mapping[str, Any],
        *,
        seal: str = "",
        on_opened: Callable[[Opened], None] | None = None,
        silence_s: float = SILENCE_S,
    ) -> None:
        self._client = client
        self._opening = Open(str(artifact.resolve()), dict(options), seal)
        self._on_opened = on_opened
        self._silence_s = silence_s
        self._child: Child | None = None
        self._has_served = False
        self._stopping = False

    @property
    def pid(self) -> int | None:
        """The engine process, if there is one."""
        return None if self._child is None else self._child.pid

    async def run(self) -> None:
        """Keep an engine running until ``stop``.

        Raises:
            GraphoptError: why it could not be loaded, or kept dying.
        """
        deaths: deque[float] = deque(maxlen=DEATHS)
        while True:
            cause = await self._one_life()
            if self._stopping:
                return
            if not self._has_served:
                raise cause
            deaths.append(self._client.loop.time())
            if len(deaths) == DEATHS and deaths[-1] - deaths[0] <= WITHIN_S:
                raise MachineError(
                    f"the engine died {DEATHS} times within {WITHIN_S:.0f} s", got=cause
                ) from cause
            log.error("%s\nThe engine starts again.", cause)

    async def stop(self, grace_s: float = 0.0) -> None:
        """End the engine for good; what is unfinished fails.

        Args:
            grace_s: how long it may take to leave by itself; a process that loads is not asked.
        """
        self._stopping = True
        child, loaded = self._child, self._client.model is not None
        self._client.close()
        if child is None:
            return
        if grace_s > 0 and loaded:
            await asyncio.wait({child.link.lost}, timeout=grace_s)
        child.kill()
        await asyncio.wait({child.link.lost})

    async def _one_life(self) -> GraphoptError:
        """Run one process from start to end; returns why it ended."""
        if self._stopping:
            return GraphoptError("the server stops")
        try:
            child = self._child = await Child.start(self._client, self._opening)
        except OSError as error:
            return typed(error)
        try:
            ending = asyncio.ensure_future(child.end())
            if self._stopping:
                child.kill()
            child.link.opened.add_done_callback(self._opened)
            while not ending.done():
                await asyncio.wait({ending}, timeout=TICK_S)
                if self._client.silent_s > self._silence_s and not ending.done():
                    log.error("the engine has work and said nothing for %.0f s", self._silence_s)
                    child.kill()
            return ending.result()
        finally:
            child.kill()

    def _opened(self, opened: asyncio.Future[Opened]) -> None:
        if not opened.cancelled():
            self._has_served = True
            if self._on_opened is not None:
                self._on_opened(opened.result())

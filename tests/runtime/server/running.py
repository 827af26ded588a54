"""Engines in processes of their own, for as long as a test needs them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

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

"""The protocols that the routes are written against."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from graphopt.runtime.server.client import Answer, Client
from graphopt.runtime.server.wire import Ended, Opened, Part, State


class Silent:
    """An answer without a part."""

    ended: Ended | None = None

    def __aiter__(self) -> Answer:
        return self

    async def __anext__(self) -> list[Part]:
        raise StopAsyncIteration

    def abort(self) -> None:
        """Nothing is there to drop."""


class Mute:
    """An engine that answers nothing."""

    model: Opened | None = None
    state = State()

    def submit(
        self,
        request_id: str,
        prompt_ids: Sequence[int],
        params: Mapping[str, Any],
        *,
        priority: int = 0,
        cache_salt: bytes = b"",
    ) -> Answer:
        """A silent answer."""
        return Silent()


async def _read(client: Client) -> list[Part]:
    return [part async for parts in client.submit("a", [1], {}) for part in parts]


def test_whatever_has_these_methods_can_be_read_by_a_route() -> None:
    assert asyncio.run(_read(Mute())) == []

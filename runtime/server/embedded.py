"""What one HTTP request has embedded: its texts, each a request to the engine, read in order.

However it ends, ``close`` has the engine drop what is unfinished, and gives the places in the queue
back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from graphopt.errors import GraphoptError

from ..outputs import ABORT, STOP
from .admission import Admission
from .client import Answer, Client
from .http_errors import queue_timeout
from .observer import Generation, Record
from .prompt_ids import PromptIds
from .settings import Limits

AT_A_TIME = 128  # texts that are handed over before others have their turn


class Embedded:
    """Texts that are to become vectors.

    Args:
        client: the engine.
        admission: where the request queues.
        limits: how long it may.
        record: is told what becomes of it.
        request_id: unique among those that are under way.
        prompts: the texts, at least one.
        priority: smaller is more urgent.

    Raises:
        OverloadedError: the queue is full.
    """

    def __init__(
        self,
        client: Client,
        admission: Admission,
        limits: Limits,
        record: Record,
        request_id: str,
        prompts: Sequence[PromptIds],
        *,
        priority: int = 0,
    ) -> None:
        self.prompts = prompts
        self._client = client
        self._record = record
        self._id = request_id
        self._priority = priority
        self._max_queue_s = limits.max_queue_s
        self._answers: list[Answer] = []
        self._generations: list[Generation] = []
        self._place = admission.queue(len(prompts))

    @property
    def tokens(self) -> int:
        """Tokens of all texts."""
        return sum(len(prompt.ids) for prompt in self.prompts)

    async def vectors(self) -> list[bytes]:
        """The vectors, one for each text, as ``wire.Ended`` has them; called once.

        Raises:
            ApiError: the first did not come in time; status 503.
            GraphoptError: the engine failed, or refused a text.
        """
        try:
            async with asyncio.timeout(self._max_queue_s):
                await self._ask()
                found = [await self._vector(0)]
        except TimeoutError as error:
            raise queue_timeout(self._max_queue_s) from error
        return [*found, *[await self._vector(one) for one in range(1, len(self.prompts))]]

    async def _ask(self) -> None:
        """Hand every text to the engine."""
        for number, prompt in enumerate(self.prompts):
            name = f"{self._id}-{number}"
            self._answers.append(self._client.embed(name, prompt.ids, priority=self._priority))
            self._generations.append(self._record.asked(len(prompt.ids), prompt=prompt.text))
            if number % AT_A_TIME == AT_A_TIME - 1:
                await asyncio.sleep(0)

    async def _vector(self, number: int) -> bytes:
        """Wait for one vector."""
        answer = self._answers[number]
        async for _ in answer:
            pass
        self._place.leave(1)
        ended = answer.ended
        if ended is None or ended.vector is None:
            raise GraphoptError("the engine gave no vector", where=f"text {number}")
        self._generations[number].finished((STOP,), ended)
        return ended.vector

    def close(self) -> None:
        """Have the engine drop what is unfinished; may be called again."""
        self._place.leave()
        for answer, generation in zip(self._answers, self._generations, strict=False):
            if answer.ended is None:
                answer.abort()
            generation.finished((ABORT,), answer.ended)

"""What one HTTP request asked of the engine: its prompts, read together until all have ended.

However the request ends, by itself, with an error or because its client went away, ``close`` has
the engine drop what is unfinished, and gives the place in the queue back.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

from graphopt.errors import GraphoptError

from ..outputs import ABORT, TokenLogprobs
from ..sampling_params import SamplingParams
from ..words import Words
from .admission import Admission
from .client import Answer, Client
from .http_errors import queue_timeout
from .observer import Generation, Record
from .prompt_ids import PromptIds
from .sampling import wire_params
from .settings import Limits
from .text_stream import Piece, SampleStream
from .wire import Part

Batch = tuple[int, list[Part]]


class Asked:
    """Prompts that were handed to the engine.

    Args:
        client: the engine.
        admission: where the request queues.
        limits: how long it may.
        record: is told what becomes of it.
        request_id: unique among those that are under way.
        prompts: at least one.
        params: how to sample each of them, stop strings included.
        words: the tokenizer, and the tokens that end a sample.
        priority: smaller is more urgent.
        cache_salt: separates prompts in the prefix cache.

    Raises:
        OverloadedError: the queue is full.
        EngineGoneError: no engine serves now.
    """

    def __init__(
        self,
        client: Client,
        admission: Admission,
        limits: Limits,
        record: Record,
        request_id: str,
        prompts: Sequence[PromptIds],
        params: SamplingParams,
        *,
        words: Words,
        priority: int = 0,
        cache_salt: bytes = b"",
    ) -> None:
        self.id = request_id
        self.prompts = prompts
        self.params = params
        self._max_queue_s = limits.max_queue_s
        stop_ids = frozenset(params.stop_ids) | (frozenset() if params.ignore_eos else words.eos)
        self._samples = [
            [
                SampleStream(place, sample, params, words.tokenizer, stop_ids)
                for sample in range(params.n)
            ]
            for place in range(len(prompts))
        ]
        self.answers: list[Answer] = []
        self._generations: list[Generation] = []
        self._tasks: list[asyncio.Task[None]] = []
        plain = wire_params(params)
        self._place = admission.queue(len(prompts) * params.n)
        try:
            for number, prompt in enumerate(prompts):
                self.answers.append(
                    client.submit(
                        f"{request_id}-{number}",
                        prompt.ids,
                        plain,
                        priority=priority,
                        cache_salt=cache_salt,
                    )
                )
                self._generations.append(record.asked(len(prompt.ids), plain, prompt.text))
        except GraphoptError:
            self.close()
            raise

    @property
    def prompt_tokens(self) -> int:
        """Tokens of all prompts."""
        return sum(len(prompt.ids) for prompt in self.prompts)

    @property
    def completion_tokens(self) -> int:
        """Tokens of all samples so far, up to their stops."""
        return sum(sample.count for samples in self._samples for sample in samples)

    @property
    def cached_tokens(self) -> int:
        """Prompt tokens that were found in the prefix cache."""
        return sum(
            min(answer.ended.metrics.cached_tokens, len(prompt.ids))
            for answer, prompt in zip(self.answers, self.prompts, strict=True)
            if answer.ended is not None
        )

    def prompt_logprobs(self, prompt: int) -> tuple[TokenLogprobs | None, ...] | None:
        """Log-probabilities of a prompt's tokens, once it has ended, if they were asked for."""
        ended = self.answers[prompt].ended
        return None if ended is None else ended.prompt_logprobs

    def _done(self, prompt: int) -> bool:
        """Whether every sample of a prompt has ended."""
        return all(sample.finish_reason is not None for sample in self._samples[prompt])

    async def pieces(self) -> AsyncIterator[list[Piece]]:
        """What comes, as it comes, until every sample has ended.

        Raises:
            ApiError: nothing came in time; status 503.
            GraphoptError: the engine failed, or refused the request.
        """
        batches = self._batches()
        try:
            async with asyncio.timeout(self._max_queue_s):
                batch = await anext(batches, None)
        except TimeoutError as error:
            raise queue_timeout(self._max_queue_s) from error
        self._place.leave()
        while batch is not None:
            found = self._pushed(*batch)
            if found:
                yield found
            batch = await anext(batches, None)

    def _pushed(self, prompt: int, parts: list[Part]) -> list[Piece]:
        """The parts of one answer as pieces."""
        self._generations[prompt].parts(parts)
        samples = self._samples[prompt]
        pieces = [samples[part.index].push(part) for part in parts]
        self._cut(prompt)
        return [piece for piece in pieces if piece is not None]

    async def _batches(self) -> AsyncIterator[Batch]:
        """Numbers of prompts, and parts of their answers."""
        if len(self.answers) == 1:
            async for parts in self.answers[0]:
                yield 0, parts
            return
        queue: asyncio.Queue[Batch | Exception | None] = asyncio.Queue()
        self._tasks = [
            asyncio.create_task(self._read(prompt, answer, queue))
            for prompt, answer in enumerate(self.answers)
        ]
        left = len(self._tasks)
        while left:
            item = await queue.get()
            if isinstance(item, Exception):
                raise item
            if item is None:
                left -= 1
            else:
                yield item

    async def _read(
        self, prompt: int, answer: Answer, queue: asyncio.Queue[Batch | Exception | None]
    ) -> None:
        """Put what comes of one prompt into the queue, and None after it."""
        try:
            async for parts in answer:
                queue.put_nowait((prompt, parts))
        except Exception as error:  # noqa: BLE001 (raised again by who reads the queue)
            queue.put_nowait(error)
        else:
            queue.put_nowait(None)

    def _cut(self, prompt: int) -> None:
        """Have the engine stop if stop strings have ended what it still goes on with."""
        answer, samples = self.answers[prompt], self._samples[prompt]
        if answer.ended is not None or self.params.prompt_logprobs is not None:
            return  # the prompt's log-probabilities come with the end
        if any(one.cut for one in samples) and self._done(prompt):
            answer.abort()

    def close(self) -> None:
        """Have the engine drop what is unfinished; may be called again."""
        self._place.leave()
        for task in self._tasks:
            task.cancel()
        for answer, generation, samples in zip(
            self.answers, self._generations, self._samples, strict=False
        ):
            if answer.ended is None:
                answer.abort()
            generation.finished([one.finish_reason or ABORT for one in samples], answer.ended)

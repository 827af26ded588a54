"""An engine that answers what it is told to, and the app over it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt
from fastapi import FastAPI

from graphopt.embedding import Embedding
from graphopt.errors import EngineGoneError, GraphoptError
from graphopt.runtime.outputs import LENGTH, STOP, RequestMetrics, TokenLogprobs
from graphopt.runtime.server.app import create_app
from graphopt.runtime.server.observer import Observer
from graphopt.runtime.server.settings import Limits, Settings
from graphopt.runtime.server.wire import Ended, Opened, Part, State
from graphopt.runtime.tokenizer import Tokenizer
from graphopt.runtime.words import Words

DEMO = Path(__file__).parents[3] / "examples" / "demo-llama"
TOKENIZER = Tokenizer.load(DEMO)
WORDS = Words(TOKENIZER, {"do_sample": False, "eos_token_id": [0, 3]}, frozenset((0, 3)))
CONTEXT = 256
OPENED = Opened(TOKENIZER.vocab_size, CONTEXT, 8, 16, 100, "little")

EMBEDDING = Embedding(8, "mean", normalize=True, whole=True)


def vector(ids: Sequence[int]) -> npt.NDArray[np.float32]:
    """What the fake engine makes of a text, f32[8] of length 1."""
    drawn = np.random.default_rng(list(ids)).standard_normal(EMBEDDING.dimensions)
    made: npt.NDArray[np.float32] = (drawn / np.linalg.norm(drawn)).astype(np.float32)
    return made


def row(token: int, most: int) -> TokenLogprobs:
    """The log-probabilities that the fake engine gives to ``token``."""
    top = ((token, -0.25), (token + 1, -1.5), (token + 2, float("-inf")))[:most]
    return TokenLogprobs(token, -0.25, 1, top)


@dataclass
class FakeAnswer:
    """One request; see ``client.Answer``."""

    engine: FakeEngine
    id: str
    prompt_ids: list[int]
    params: dict[str, Any]
    priority: int
    cache_salt: bytes
    ended: Ended | None = None
    aborted: bool = False
    given: int = 0
    queue: asyncio.Queue[list[Part] | GraphoptError | None] = field(default_factory=asyncio.Queue)

    def __aiter__(self) -> FakeAnswer:
        return self

    async def __anext__(self) -> list[Part]:
        if self.aborted:
            raise StopAsyncIteration
        item = await self.queue.get()
        if item is None:
            raise StopAsyncIteration
        if isinstance(item, GraphoptError):
            raise item
        self.given += sum(len(part.token_ids) for part in item)
        return item

    def abort(self) -> None:
        """Nothing comes any more."""
        self.aborted = True

    def play(self, ids: Sequence[int], at_once: int = 1, ends: bool = True) -> None:
        """Answer every sample with ``ids`` and an end-of-sequence token."""
        most = self.params.get("max_tokens", 16)
        ids = [*ids, 0] if ends else [*ids]
        cut = ids if most is None else ids[:most]
        for start in range(0, len(cut), at_once):
            new = tuple(cut[start : start + at_once])
            last = start + len(new) >= len(cut)
            reason = (LENGTH if new[-1] != 0 else STOP) if last else None
            self.queue.put_nowait(
                [
                    Part(
                        self.id,
                        index,
                        new,
                        self.logprobs(new),
                        reason,
                    )
                    for index in range(self.params.get("n", 1))
                ]
            )
        self.end()

    def logprobs(self, ids: Sequence[int]) -> tuple[TokenLogprobs, ...] | None:
        """Of tokens, if they were asked for."""
        most = self.params.get("logprobs")
        return None if most is None else tuple(row(token, most) for token in ids)

    def embed(self) -> None:
        """Answer with a vector."""
        made = vector(self.prompt_ids).astype("<f4").tobytes()
        self.ended = Ended(self.id, RequestMetrics(0.0, None, 1.0), vector=made)
        self.queue.put_nowait(None)

    def end(self, cached: int = 0) -> None:
        """End it."""
        most = self.params.get("prompt_logprobs")
        of_prompt = (
            None if most is None else (None, *(row(token, most) for token in self.prompt_ids[1:]))
        )
        self.ended = Ended(self.id, RequestMetrics(0.0, 0.5, 1.0, cached_tokens=cached), of_prompt)
        self.queue.put_nowait(None)


class FakeEngine:
    """See ``client.Client``. Answers each request with ``text``, or leaves it to the test.

    Attributes:
        asked: the requests.
        text: what is answered; None for nothing.
    """

    def __init__(self, text: str | None = " hello world") -> None:
        self.model: Opened | None = OPENED
        self.state = State()
        self.asked: list[FakeAnswer] = []
        self.text = text
        self.at_once = 1
        self.error: GraphoptError | None = None

    def submit(
        self,
        request_id: str,
        prompt_ids: Sequence[int],
        params: Mapping[str, Any],
        *,
        priority: int = 0,
        cache_salt: bytes = b"",
    ) -> FakeAnswer:
        """Take a request in."""
        if self.model is None:
            raise EngineGoneError("no engine serves")
        answer = FakeAnswer(self, request_id, list(prompt_ids), dict(params), priority, cache_salt)
        self.asked.append(answer)
        if self.error is not None:
            answer.queue.put_nowait(self.error)
        elif self.text is not None:
            answer.play(ids_of(self.text), self.at_once)
        return answer

    def embed(self, request_id: str, prompt_ids: Sequence[int], *, priority: int = 0) -> FakeAnswer:
        """Take a text in; it is answered unless ``text`` is None."""
        if self.model is None:
            raise EngineGoneError("no engine serves")
        answer = FakeAnswer(self, request_id, list(prompt_ids), {}, priority, b"")
        self.asked.append(answer)
        if self.error is not None:
            answer.queue.put_nowait(self.error)
        elif self.text is not None:
            answer.embed()
        return answer


def ids_of(text: str) -> list[int]:
    """The tokens of a text, none in front."""
    return TOKENIZER.encode(text, add_special_tokens=False)


def app_over(
    engine: FakeEngine,
    words: Words = WORDS,
    limits: Limits | None = None,
    embedding: Embedding | None = None,
    **settings: Any,
) -> FastAPI:
    """The app."""
    chosen = Settings(Path("demo.gopt"), limits=limits or Limits(), **settings)
    return create_app(chosen, engine, words, Observer(), embedding)


def client_of(app: FastAPI, **headers: str) -> httpx.AsyncClient:
    """Talks to the app without a server."""
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://server", headers=headers)


def post(path: str, body: Any, engine: FakeEngine | None = None, **settings: Any) -> httpx.Response:
    """One request and its answer."""

    async def run() -> httpx.Response:
        async with client_of(app_over(engine or FakeEngine(), **settings)) as client:
            return await client.post(path, json=body)

    return asyncio.run(run())


def get(path: str, engine: FakeEngine | None = None, **settings: Any) -> httpx.Response:
    """One request and its answer."""

    async def run() -> httpx.Response:
        async with client_of(app_over(engine or FakeEngine(), **settings)) as client:
            return await client.get(path)

    return asyncio.run(run())


def events(response: httpx.Response) -> list[Any]:
    """The objects of a stream of events, which has to end as it should."""
    import json

    blocks = response.text.split("\n\n")
    assert blocks.pop() == ""
    assert blocks.pop() == "data: [DONE]"
    return [json.loads(block.removeprefix("data: ")) for block in blocks]

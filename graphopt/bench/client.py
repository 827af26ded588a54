"""One request after another to a server that speaks OpenAI's protocol, streamed and timed."""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import MappingProxyType, TracebackType
from typing import Any, Literal, Self

import httptools
import httpx
import msgspec

from graphopt.errors import GraphoptError, MachineError, UsageError

from .events import Stream
from .exchange import Exchange
from .outcome import Outcome

Endpoint = Literal["completions", "chat"]
ENDPOINTS: tuple[Endpoint, ...] = ("completions", "chat")
PATHS = MappingProxyType({"completions": "/v1/completions", "chat": "/v1/chat/completions"})
PREPARE_S = 60.0


class Client:
    """Asks one server.

    Args:
        url: of the server, with or without ``/v1``.
        endpoint: which of its routes.
        api_key: shown if there is one.
        model: asked for; None asks for the first that the server names.
        extra: more fields of each body.
        timeout_s: longest wait for the next byte of an answer.

    Attributes:
        events: events read so far.

    Raises:
        UsageError: this is no URL.

    Usage: ``async with Client("http://127.0.0.1:8000") as client: await client.ask("def", 4, 16)``.
    """

    def __init__(
        self,
        url: str,
        endpoint: Endpoint = "completions",
        *,
        api_key: str | None = None,
        model: str | None = None,
        extra: Mapping[str, Any] = MappingProxyType({}),
        timeout_s: float = 600.0,
    ) -> None:
        base = url.rstrip("/").removesuffix("/v1")
        if not base.startswith(("http://", "https://")) or base.endswith("//"):
            raise UsageError(
                "this is no URL of a server", got=url, expected="such as http://127.0.0.1:8000"
            )
        headers = {"content-type": "application/json", "accept": "text/event-stream"}
        if api_key is not None:
            headers["authorization"] = f"Bearer {api_key}"
        self._http = httpx.AsyncClient(
            base_url=base,
            headers=headers,
            timeout=PREPARE_S,
            trust_env=False,
        )
        self._exchange = Exchange(base, headers)
        self._timeout_s = timeout_s
        self._endpoint = endpoint
        self._path = PATHS[endpoint]
        self._extra = dict(extra)
        self.model = model or ""
        self.events = 0

    async def __aenter__(self) -> Self:
        """Find out what the model is called, unless it was said."""
        if not self.model:
            try:
                found = await self.get("/v1/models")
                self.model = str(found["data"][0]["id"])
            except (KeyError, IndexError, TypeError):
                await self._http.aclose()
                raise UsageError("the server names no model", next="name it: --model") from None
            except GraphoptError:
                await self._http.aclose()
                raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the connections."""
        self._exchange.close()
        await self._http.aclose()

    async def get(self, path: str) -> Any:
        """The JSON at ``path``.

        Raises:
            MachineError: the server does not answer.
            UsageError: it answers with an error.
        """
        return await self._plain("GET", path, None)

    async def post(self, path: str, body: object) -> Any:
        """The JSON that ``body`` is answered with; raises as ``get`` does."""
        return await self._plain("POST", path, msgspec.json.encode(body))

    async def _plain(self, method: str, path: str, content: bytes | None) -> Any:
        try:
            reply = await self._http.request(method, path, content=content)
        except httpx.HTTPError as error:
            raise MachineError(
                "the server does not answer",
                where=f"{self._http.base_url}{path.lstrip('/')}",
                got=f"{type(error).__name__}: {error}",
                next="start it, or look whether the URL is right",
            ) from error
        if reply.status_code != 200:
            raise UsageError(
                "the server refuses",
                where=path,
                got=f"{reply.status_code} {reply.text[:300]}",
                next="give the key with --api-key" if reply.status_code == 401 else None,
            )
        return reply.json()

    def body(self, prompt: str, output_tokens: int) -> bytes:
        """What is sent for ``prompt``."""
        asked: dict[str, Any] = {
            "model": self.model,
            "max_tokens": output_tokens,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if self._endpoint == "chat":
            asked["messages"] = [{"role": "user", "content": prompt}]
        else:
            asked["prompt"] = prompt
        return msgspec.json.encode({**asked, **self._extra})

    async def ask(self, prompt: str, prompt_tokens: int, output_tokens: int) -> Outcome:
        """One request, read to its end; whatever goes wrong is in the outcome.

        Args:
            prompt: text of the prompt.
            prompt_tokens: its length, as far as it is known.
            output_tokens: the most to generate.
        """
        content = self.body(prompt, output_tokens)
        one = Outcome(prompt_tokens=prompt_tokens)
        began = time.perf_counter()
        reading = _Reading(one, began)
        try:
            one.status, refusal = await self._exchange.post(
                self._path, content, reading.take, self._timeout_s
            )
            if one.status != 200:
                one.error = refusal.decode(errors="replace")[:300] or "no reason"
            else:
                reading.finish()
        except (OSError, httptools.HttpParserError) as error:
            one.status = 200 if reading.began else 0
            one.error = f"{type(error).__name__}: {error}"
        one.e2e_s = time.perf_counter() - began
        self.events += reading.events
        return one


class _Reading:
    """An answer as it comes; all that one read brings has one time."""

    __slots__ = ("_last_s", "_one", "_sent_s", "_stream", "_texts", "began", "events", "finished")

    def __init__(self, one: Outcome, sent_s: float) -> None:
        self._one = one
        self._sent_s = self._last_s = sent_s
        self._stream = Stream()
        self._texts = 0
        self.began = False
        self.finished = False
        self.events = 0

    def take(self, data: bytes, now_s: float) -> None:
        """Bytes that were read at ``now_s``."""
        self.began = True
        one = self._one
        try:
            events = self._stream.push(data)
        except msgspec.MsgspecError as error:
            one.error = f"an event that is not of this protocol: {error}"
            return
        self.events += len(events)
        for event in events:
            if event.error is not None:
                one.error = str(event.error)[:300]
            if event.usage is not None:
                one.prompt_tokens = event.usage.prompt_tokens
                one.output_tokens = event.usage.completion_tokens
            self.finished = self.finished or any(choice.finish_reason for choice in event.choices)
            if not event.has_text:
                continue
            self._texts += 1
            if one.ttft_s is None:
                one.ttft_s = now_s - self._sent_s
            else:
                one.gaps_s.append(now_s - self._last_s)
            self._last_s = now_s

    def finish(self) -> None:
        """The answer is over, as far as HTTP goes."""
        one = self._one
        one.output_tokens = one.output_tokens or self._texts
        if one.error is None and not (self._stream.done or self.finished):
            one.error = "the stream broke off"

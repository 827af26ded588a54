"""What a route knows of the engine: whether it serves, what it is doing, and how to ask it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from .wire import Ended, Opened, Part, State


class Answer(Protocol):
    """One request in the engine, read step by step.

    Iteration ends after the last part, and then ``ended`` is there. It raises what the request
    failed with, and ``EngineGoneError`` if the engine process died.
    """

    @property
    def ended(self) -> Ended | None:
        """How the request ended; None while it goes on."""

    def __aiter__(self) -> Answer:
        """Itself."""

    async def __anext__(self) -> list[Part]:
        """The parts that have come; waits for one."""

    def abort(self) -> None:
        """Drop the request, from the next step on; may be called twice.

        No parts come any more. Iteration ends once the engine has said how the request ended.
        """


class Client(Protocol):
    """The engine, as the routes see it."""

    @property
    def model(self) -> Opened | None:
        """The model that is loaded; None while none is, and while the engine starts again."""

    @property
    def state(self) -> State:
        """What the engine was doing after the last step."""

    def submit(
        self,
        request_id: str,
        prompt_ids: Sequence[int],
        params: Mapping[str, Any],
        *,
        priority: int = 0,
        cache_salt: bytes = b"",
    ) -> Answer:
        """Ask; parameters as in ``wire.Submit``.

        Raises:
            EngineGoneError: no engine serves now.
        """

    def embed(self, request_id: str, prompt_ids: Sequence[int], *, priority: int = 0) -> Answer:
        """Ask for a text's vector, which comes with the end; parameters as in ``wire.Embed``.

        Raises:
            EngineGoneError: no engine serves now.
        """

"""Prompts as the engine takes them: text and conversations made into token ids, within limits.

Text that has more characters than the longest context could take is refused before it is looked
at, and long text is tokenized in a few threads, so that short requests do not wait for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from graphopt.errors import CapacityError, RequestError

from ..prompts import token_array
from ..tokenizer import Tokenizer
from .http_errors import refuse
from .wire import Opened

THREADS = 2
SHORT_CHARS = 4096  # tokenized at once: that takes less than a millisecond
GROUP_CHARS = 1 << 15  # of many texts, so much at a time: others have their turn in between
TEXT_CHARS = 64  # what a text costs however short it is, as characters
# Most characters of one token that are believed; a longer text than these times the context is
# refused unseen. Runs of spaces are the longest tokens that vocabularies have.
MAX_TOKEN_CHARS = 128
_CONTINUED = "\ue000graphopt goes on here\ue000"  # of a private area: no template knows it

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class PromptIds:
    """One prompt.

    Attributes:
        ids: its tokens.
        text: its text, if it was given as text.
    """

    ids: list[int]
    text: str | None = None


class PromptReader:
    """Makes token ids of what clients send.

    Args:
        tokenizer: None if the model has none.
    """

    def __init__(self, tokenizer: Tokenizer | None) -> None:
        self._tokenizer = tokenizer
        self._threads = ThreadPoolExecutor(THREADS, "tokenize")

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer.

        Raises:
            RequestError: there is none.
        """
        if self._tokenizer is None:
            raise RequestError(
                "this model has no tokenizer, so it knows no text", next="send token ids"
            )
        return self._tokenizer

    async def prompts(
        self,
        prompts: Sequence[str | list[int]],
        model: Opened,
        add_special_tokens: bool = True,
        *,
        most_tokens: int | None = None,
    ) -> list[PromptIds]:
        """Many prompts, checked, as fast as one of their length.

        Args:
            prompts: texts or token ids.
            model: that is to take them.
            add_special_tokens: whether texts get what the tokenizer puts around them.
            most_tokens: that all of them may have together.

        Raises:
            RequestError: one is empty, holds tokens that the model does not have, or is text that
                the model does not know.
            CapacityError: one is longer than the model's context.
            ApiError: they have more tokens together.
        """
        found: list[PromptIds] = []
        tokens = 0
        for group in _groups(prompts):

            def read(group: Sequence[str | list[int]] = group) -> list[PromptIds]:
                return [self._read(one, model, add_special_tokens) for one in group]

            found += await self._run(_cost(group), read)
            tokens += sum(len(one.ids) for one in found[-len(group) :])
            if most_tokens is not None and tokens > most_tokens:
                raise refuse(
                    f"input may have at most {most_tokens} tokens in all", "input", "over_limit"
                )
        return found

    def _read(self, prompt: str | list[int], model: Opened, special: bool) -> PromptIds:
        if not isinstance(prompt, str):
            return PromptIds(checked(prompt, model))
        _demand_short(prompt, model)
        ids = self.tokenizer.encode(prompt, add_special_tokens=special)
        return PromptIds(checked(ids, model), prompt)

    async def encode(self, text: str, model: Opened, add_special_tokens: bool) -> list[int]:
        """The tokens of ``text``, however few the model's context holds.

        Raises:
            RequestError: there is no tokenizer.
            CapacityError: the text is longer than any context's.
        """
        tokenizer = self.tokenizer
        _demand_short(text, model)
        return await self._run(
            len(text), lambda: tokenizer.encode(text, add_special_tokens=add_special_tokens)
        )

    async def conversation(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """The text that the chat template makes of one conversation.

        Raises:
            RequestError: there is no chat template, or it refuses the messages.
        """
        tokenizer = self.tokenizer
        given = [dict(one) for one in messages]
        if continue_final_message:
            last = given[-1] if given else {}
            if last.get("role") != "assistant" or not isinstance(last.get("content"), str):
                raise RequestError(
                    "there is no final message to continue",
                    expected="a last message of the assistant that is text",
                )
            last["content"] += _CONTINUED

        def render() -> str:
            return tokenizer.render_chat(
                given,
                tools=tools,
                add_generation_prompt=add_generation_prompt,
                **(variables or {}),
            )

        size = sum(64 + len(one.get("content") or "") for one in given)
        if tools or variables:
            size += SHORT_CHARS  # what they cost, only the template knows
        text = await self._run(size, render)
        if not continue_final_message:
            return text
        if _CONTINUED not in text:
            raise RequestError("the chat template does not show the final message")
        return text[: text.rindex(_CONTINUED)]

    async def decode(self, ids: Sequence[int], skip_special_tokens: bool = False) -> str:
        """The text of token ids; ids without a token are left out.

        Raises:
            RequestError: there is no tokenizer.
        """
        tokenizer = self.tokenizer
        return await self._run(
            4 * len(ids), lambda: tokenizer.decode(ids, skip_special_tokens=skip_special_tokens)
        )

    async def _run(self, chars: int, work: Callable[[], Result]) -> Result:
        """Do ``work``, in a thread if it may take long."""
        if chars <= SHORT_CHARS:
            return work()
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)


def _cost(prompts: Sequence[str | list[int]]) -> int:
    return sum(len(one) + TEXT_CHARS for one in prompts)


def _groups(prompts: Sequence[str | list[int]]) -> Iterator[Sequence[str | list[int]]]:
    """Prompts in order, about ``GROUP_CHARS`` at a time."""
    start = size = 0
    for place, one in enumerate(prompts, 1):
        size += len(one) + TEXT_CHARS
        if size >= GROUP_CHARS or place == len(prompts):
            yield prompts[start:place]
            start, size = place, 0


def _demand_short(text: str, model: Opened) -> None:
    """Refuse a text that is longer than any of the context's length.

    Raises:
        CapacityError: it is.
    """
    if len(text) > model.max_model_len * MAX_TOKEN_CHARS:
        raise CapacityError(
            "the prompt is longer than the model's context can be",
            got=f"{len(text)} characters",
            expected=f"at most {model.max_model_len} tokens",
        )


def checked(ids: list[int], model: Opened) -> list[int]:
    """``ids``, which the model can take.

    Raises:
        RequestError: there are none, or one that the model does not have.
        CapacityError: there are more than the model's context holds.
    """
    if len(ids) > model.max_model_len:
        raise CapacityError(
            "the prompt does not fit the model's context",
            got=f"{len(ids)} tokens",
            expected=f"at most {model.max_model_len} tokens",
            next="shorten the prompt",
        )
    token_array(ids, model.vocab_size)
    return ids

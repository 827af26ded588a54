"""Prompts of so many tokens, made of words that nobody wrote.

Each is another text, so that a prefix cache finds nothing but what is meant to be shared. With a
tokenizer, the server's own or a local one, the lengths are exact; without one a word counts as a
token, and only the server knows the length.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from graphopt.errors import UsageError

from .client import Client

TRIES = 8
AT_ONCE = 8
WORDS = tuple(
    "".join(letters)
    for letters in itertools.product("bdfgklmnprst", "aeiou", "ckllmnrst", ("", "e"))
)


class Tokens(Protocol):
    """Text to tokens and back."""

    async def encode(self, text: str) -> list[int]:
        """The tokens of ``text``, none added."""

    async def decode(self, ids: Sequence[int]) -> str:
        """The text of tokens."""

    async def overhead(self) -> int:
        """Tokens that the server adds to a prompt."""


class ServerTokens:
    """The server's tokenizer, by its routes ``/tokenize`` and ``/detokenize``.

    Args:
        client: asks the server.
        chat: whether prompts are messages of a chat, which gets a template around it.
    """

    def __init__(self, client: Client, *, chat: bool) -> None:
        self._client = client
        self._chat = chat

    async def encode(self, text: str) -> list[int]:
        """The tokens of ``text``, none added."""
        return await self._tokens({"prompt": text, "add_special_tokens": False})

    async def decode(self, ids: Sequence[int]) -> str:
        """The text of tokens."""
        body = {"model": self._client.model, "tokens": list(ids)}
        return str((await self._client.post("/detokenize", body))["prompt"])

    async def overhead(self) -> int:
        """Tokens around a text of one word."""
        word = WORDS[0]
        whole: dict[str, object] = {"prompt": word}
        if self._chat:
            messages = [{"role": "user", "content": word}]
            whole = {"messages": messages, "add_generation_prompt": True}
        return max(0, len(await self._tokens(whole)) - len(await self.encode(word)))

    async def _tokens(self, body: dict[str, object]) -> list[int]:
        answer = await self._client.post("/tokenize", {"model": self._client.model, **body})
        return list(answer["tokens"])


class LocalTokens:
    """A tokenizer.json, or the folder that holds one.

    Raises:
        UsageError: there is none, or it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        from tokenizers import Tokenizer

        file = path / "tokenizer.json" if path.is_dir() else path
        try:
            self._tokenizer = Tokenizer.from_file(str(file))
        except Exception as error:
            raise UsageError("the tokenizer cannot be read", where=str(file), got=error) from error

    async def encode(self, text: str) -> list[int]:
        """The tokens of ``text``, none added."""
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    async def decode(self, ids: Sequence[int]) -> str:
        """The text of tokens."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=False))

    async def overhead(self) -> int:
        """Tokens that the tokenizer puts around a text; no chat template is known here."""
        return int(self._tokenizer.num_special_tokens_to_add(False))


@dataclass(frozen=True, slots=True)
class Prompt:
    """A text and its length, as far as it is known."""

    text: str
    tokens: int


async def make_prompts(
    lengths: Sequence[int], tokens: Tokens | None, rng: random.Random, shared_tokens: int = 0
) -> list[Prompt]:
    """A prompt for each length.

    Args:
        lengths: in tokens, those that the server adds included.
        tokens: the tokenizer; None counts words.
        rng: makes them reproducible.
        shared_tokens: so many tokens at the front are the same in all.
    """
    front = words(rng, shared_tokens)
    texts = [f"{front} {words(rng, length + TRIES)}".strip() for length in lengths]
    if tokens is None:
        return [
            Prompt(" ".join(text.split(" ")[:length]), length)
            for text, length in zip(texts, lengths, strict=True)
        ]
    added = await tokens.overhead()
    room = asyncio.Semaphore(AT_ONCE)

    async def one(text: str, length: int) -> Prompt:
        async with room:
            return await _cut(text, max(1, length - added), added, tokens)

    return list(await asyncio.gather(*map(one, texts, lengths)))


def words(rng: random.Random, count: int) -> str:
    """So many words; at least one token each in any tokenizer."""
    return " ".join(rng.choices(WORDS, k=count))


async def _cut(text: str, length: int, added: int, tokens: Tokens) -> Prompt:
    """The beginning of ``text`` that has ``length`` tokens.

    Tokens that are cut out of a text need not be those that their text has by itself, so the cut is
    moved and the last tokens are exchanged until they are; if they never are, the nearest is taken.
    """
    ids = await tokens.encode(text)
    keep, best = length, (len(ids), text)
    for shift in range(TRIES):
        tail = max(0, keep - 2)
        part = await tokens.decode(ids[:tail] + ids[tail + shift : keep + shift])
        found = len(await tokens.encode(part)) if part else 0
        if abs(found - length) < abs(best[0] - length):
            best = (found, part)
        if found == length:
            break
        keep = max(1, min(len(ids), keep + length - found))
    return Prompt(best[1], best[0] + added)

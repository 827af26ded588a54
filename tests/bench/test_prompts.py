"""Prompts have exactly the tokens that were asked for, whatever the tokenizer does at cuts."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from graphopt.bench.client import Client
from graphopt.bench.prompts import LocalTokens, Prompt, ServerTokens, Tokens, make_prompts, words
from graphopt.errors import UsageError

from .fake_server import FakeServer, pairs

DEMO = Path(__file__).parents[2] / "examples" / "demo-llama"


class Letters:
    """A letter is a token; the front of a text gets one more when it is encoded again."""

    def __init__(self, added: int) -> None:
        self.added = added

    async def encode(self, text: str) -> list[int]:
        return [*map(ord, text)]

    async def decode(self, ids: Sequence[int]) -> str:
        text = "".join(map(chr, ids))
        return text.rstrip() if len(text) % 3 else text  # as tokenizers that drop spaces do

    async def overhead(self) -> int:
        return self.added


def make(lengths: Sequence[int], tokens: Tokens | None, shared: int = 0) -> list[Prompt]:
    return asyncio.run(make_prompts(lengths, tokens, random.Random(1), shared))


def test_words_without_a_tokenizer() -> None:
    made = make([1, 7, 300], None)
    assert [len(one.text.split(" ")) for one in made] == [1, 7, 300]
    assert [one.tokens for one in made] == [1, 7, 300]


@pytest.mark.parametrize("added", [0, 1, 9])
def test_lengths_are_exact_with_what_is_added(added: int) -> None:
    lengths = [10 + added, 11 + added, 57 + added, 200 + added]
    made = make(lengths, Letters(added))
    assert [len(one.text) + added for one in made] == lengths
    assert [one.tokens for one in made] == lengths


def test_a_prompt_has_at_least_one_token() -> None:
    (made,) = make([1], Letters(9))
    assert made.tokens == 10


@pytest.mark.parametrize("tokens", [None, Letters(0)])
def test_no_two_are_alike_but_for_what_is_shared(tokens: Tokens | None) -> None:
    made = make([60] * 50, tokens)
    assert len({one.text[:30] for one in made}) == 50
    shared = make([60] * 50, tokens, shared=5)
    assert len({one.text[:12] for one in shared}) == 1
    assert len({one.text for one in shared}) == 50


def test_the_seed_decides() -> None:
    assert make([30, 40], None) == make([30, 40], None)


def test_words_are_words() -> None:
    assert re.fullmatch(r"([a-z]+ ){99}[a-z]+", words(random.Random(0), 100))


@pytest.mark.parametrize(("chat", "added"), [(False, 1), (True, 4)])
def test_the_servers_tokenizer(fake: FakeServer, chat: bool, added: int) -> None:
    fake.tokenizes = True

    async def go() -> list[Prompt]:
        async with Client(fake.url) as client:
            tokens = ServerTokens(client, chat=chat)
            assert await tokens.overhead() == added
            return await make_prompts([20, 33], tokens, random.Random(0))

    made = asyncio.run(go())
    assert [len(pairs(one.text)) + added for one in made] == [20, 33]
    assert [one.tokens for one in made] == [20, 33]


def test_a_local_tokenizer() -> None:
    tokens = LocalTokens(DEMO)
    made = make([10, 23, 64], tokens)
    added = asyncio.run(tokens.overhead())
    found = [len(asyncio.run(tokens.encode(one.text))) + added for one in made]
    assert found == [one.tokens for one in made] == [10, 23, 64]


def test_no_tokenizer_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="tokenizer cannot be read"):
        LocalTokens(tmp_path)

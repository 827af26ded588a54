"""Prompts to tokens: within the context, in threads when long, conversations by their template."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from graphopt.errors import CapacityError, RequestError
from graphopt.runtime.server.http_errors import ApiError
from graphopt.runtime.server.prompt_ids import (
    GROUP_CHARS,
    MAX_TOKEN_CHARS,
    SHORT_CHARS,
    PromptIds,
    PromptReader,
    checked,
)
from graphopt.runtime.server.wire import Opened

from .fake_engine import OPENED, TOKENIZER

READER = PromptReader(TOKENIZER)
LARGE = Opened(TOKENIZER.vocab_size, 100_000, 8, 16, 100, "much")
TALK = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b "}]


async def one(reader: PromptReader, *given: Any) -> PromptIds:
    """A single prompt, read."""
    (found,) = await reader.prompts([given[0]], *given[1:])
    return found


def test_text_and_ids_become_the_same() -> None:
    async def run() -> None:
        ids = TOKENIZER.encode("hello you")
        found = await one(READER, "hello you", OPENED)
        assert (found.ids, found.text) == (ids, "hello you")
        assert (await one(READER, ids, OPENED)).ids == ids
        assert (await one(READER, "hello you", OPENED, False)).ids == ids[1:]

    asyncio.run(run())


def test_what_does_not_fit_is_refused_before_it_is_tokenized() -> None:
    class Unused:
        def encode(self, *_: Any, **__: Any) -> list[int]:
            raise AssertionError("tokenized")

    async def run() -> None:
        reader = PromptReader(Unused())  # type: ignore[arg-type]
        with pytest.raises(CapacityError, match="longer"):
            await one(reader, "x" * (OPENED.max_model_len * MAX_TOKEN_CHARS + 1), OPENED)
        with pytest.raises(CapacityError, match="context"):
            await one(READER, "x " * OPENED.max_model_len, OPENED)

    asyncio.run(run())


@pytest.mark.parametrize("ids", [[], [10**6], [-1]])
def test_ids_have_to_be_of_the_model(ids: list[int]) -> None:
    with pytest.raises(RequestError):
        checked(ids, OPENED)
    with pytest.raises(CapacityError):
        checked([1] * (OPENED.max_model_len + 1), OPENED)
    assert checked([1] * OPENED.max_model_len, OPENED)


def test_long_text_is_tokenized_beside_the_loop() -> None:
    async def run() -> None:
        seen: list[str] = []
        whole = READER.tokenizer.encode

        class Spy:
            def encode(self, text: str, **named: Any) -> list[int]:
                seen.append(threading.current_thread().name)
                return whole(text, **named)

        reader = PromptReader(Spy())  # type: ignore[arg-type]
        await reader.encode("a" * SHORT_CHARS, LARGE, True)
        await reader.encode("a " * SHORT_CHARS, LARGE, True)
        assert seen[0] == threading.current_thread().name
        assert seen[1].startswith("tokenize")

    asyncio.run(run())


def test_many_texts_are_tokenized_beside_the_loop_some_at_a_time() -> None:
    texts = ["hello you"] * 999 + ["", "x " * 3000, "end"]

    class Spy:
        def encode(self, text: str, **named: Any) -> list[int]:
            seen.add(threading.current_thread().name.partition("_")[0])
            return TOKENIZER.encode(text, **named)

    async def run() -> None:
        reader = PromptReader(Spy())  # type: ignore[arg-type]
        turns, going = 0, asyncio.ensure_future(reader.prompts(texts, LARGE))
        while not going.done():
            turns += 1
            await asyncio.sleep(0)
        assert [found.ids for found in going.result()] == [TOKENIZER.encode(one) for one in texts]
        assert [found.text for found in going.result()] == texts
        assert turns > len("".join(texts)) // GROUP_CHARS

    seen: set[str] = set()
    asyncio.run(run())
    assert seen == {"tokenize"}


def test_all_texts_together_have_a_limit() -> None:
    async def run() -> None:
        ids = [[5] * 100] * 4
        assert len(await READER.prompts(ids, OPENED, most_tokens=400)) == 4
        with pytest.raises(ApiError) as caught:
            await READER.prompts(ids, OPENED, most_tokens=399)
        assert (caught.value.param, caught.value.code) == ("input", "over_limit")

    asyncio.run(run())


def test_a_conversation_ends_where_an_answer_starts_or_where_it_goes_on() -> None:
    async def run() -> None:
        text = await READER.conversation(TALK)
        assert text.endswith("<|assistant|>\nb <|end|>\n<|assistant|>\n")
        closed = await READER.conversation(TALK, add_generation_prompt=False)
        assert closed.endswith("b <|end|>\n")
        opened = await READER.conversation(
            TALK, add_generation_prompt=False, continue_final_message=True
        )
        assert opened.endswith("<|assistant|>\nb ")
        assert TALK[1]["content"] == "b "

    asyncio.run(run())


@pytest.mark.parametrize("talk", [[], TALK[:1], [{"role": "assistant", "content": None}]])
def test_only_a_text_of_the_assistant_goes_on(talk: list[dict[str, Any]]) -> None:
    with pytest.raises(RequestError, match="final message"):
        asyncio.run(READER.conversation(talk, continue_final_message=True))


def test_without_a_tokenizer_only_ids_are_known() -> None:
    async def run() -> None:
        reader = PromptReader(None)
        assert (await one(reader, [1, 2], OPENED)).ids == [1, 2]
        with pytest.raises(RequestError, match="no tokenizer"):
            await one(reader, "a", OPENED)
        with pytest.raises(RequestError, match="no tokenizer"):
            await reader.decode([1])

    asyncio.run(run())

"""Messages to token ids, within limits."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from graphopt.errors import RequestError
from graphopt.runtime.server.conversations import conversation_ids
from graphopt.runtime.server.http_errors import ApiError
from graphopt.runtime.server.prompt_ids import PromptIds
from graphopt.runtime.server.protocol.messages import Message
from graphopt.runtime.server.service import Service
from graphopt.runtime.server.settings import Limits, Settings

from .fake_engine import TOKENIZER, WORDS, FakeEngine


def _ids(*contents: Any, limits: Limits | None = None, **options: Any) -> PromptIds:
    async def run() -> PromptIds:
        settings = Settings(Path("a"), limits=limits or Limits())
        service = Service.of(settings, FakeEngine(), WORDS)
        messages = [Message.model_validate({"role": "user", "content": one}) for one in contents]
        return await conversation_ids(service, messages, **options)

    return asyncio.run(run())


def test_the_template_makes_the_prompt() -> None:
    expected = TOKENIZER.render_chat([{"role": "user", "content": "hey"}])
    found = _ids("hey")
    assert found.text == expected
    assert found.ids == TOKENIZER.encode(expected, add_special_tokens=False)
    assert found.ids[0] == 0
    assert _ids("hey", add_special_tokens=True).ids[:2] == [0, 0]


def test_options_that_contradict_one_another_are_refused() -> None:
    with pytest.raises(ApiError, match="exclude"):
        _ids("a", add_generation_prompt=True, continue_final_message=True)


@pytest.mark.parametrize("name", ["messages", "tools", "add_generation_prompt"])
def test_what_the_request_says_elsewhere_is_no_variable(name: str) -> None:
    with pytest.raises(ApiError, match=name):
        _ids("a", variables={name: []})


def test_variables_reach_the_template_and_strange_ones_harm_nothing() -> None:
    assert _ids(
        "a", variables={"enable_thinking": False, "x y": 1, "self": 2, "clock": [], "value": 3}
    ).text


def test_tools_are_limited_in_size() -> None:
    tools = [{"name": "x" * 100}]
    assert _ids("a", tools=tools).text
    with pytest.raises(ApiError, match="tools"):
        _ids("a", tools=tools, limits=Limits(max_tools_bytes=100))


def test_a_part_that_is_no_text_is_named_with_its_place() -> None:
    parts = [{"type": "image_url", "image_url": {"url": "http://x"}}]
    with pytest.raises(ApiError, match=r"messages\.1\.content") as caught:
        _ids("a", [*parts])
    assert caught.value.param == "messages.1.content"


def test_a_template_that_fails_is_the_requests_fault() -> None:
    with pytest.raises(RequestError):
        _ids("a " * 10_000)

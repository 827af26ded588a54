"""What a conversation remembers, and what it forgets."""

from __future__ import annotations

import pytest

from graphopt.cli.conversation import Conversation, Interrupt
from graphopt.errors import CapacityError
from tests.cli.fake_api import WORDS, FakeAPI


def start(fake: FakeAPI, system: str | None = None) -> Conversation:
    llm = fake.LLM(fake.artifact())
    return Conversation(llm, llm.sampling_params(), system)  # type: ignore[arg-type]


def test_question_and_answer_are_remembered(fake: FakeAPI) -> None:
    conversation = start(fake, "Be brief.")
    assert list(conversation.answer("Why?", Interrupt())) == [*WORDS, ""]
    assert conversation.messages == [
        {"role": "user", "content": "Why?"},
        {"role": "assistant", "content": "".join(WORDS)},
    ]
    assert fake.used.prompts == [
        [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]
    ]


def test_a_failed_question_is_forgotten(fake: FakeAPI) -> None:
    fake.request_error = CapacityError("too long")
    conversation = start(fake)
    with pytest.raises(CapacityError):
        list(conversation.answer("Why?", Interrupt()))
    assert conversation.messages == []


def test_an_interrupt_keeps_what_was_said(fake: FakeAPI) -> None:
    conversation, interrupt = start(fake), Interrupt()
    said = []
    for piece in conversation.answer("Why?", interrupt):
        said.append(piece)
        interrupt.pressed = len(said) == 2
    assert said == list(WORDS[:2])
    assert conversation.messages[1]["content"] == "".join(WORDS[:2])
    assert fake.used.streams_closed == 1

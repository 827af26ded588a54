"""``/tokenize``, ``/detokenize`` and ``/tokenizer_info``."""

from __future__ import annotations

from typing import Any

import pytest

from graphopt.runtime.server.protocol.tokens import Detokenized, Tokenized, TokenizerInfo
from graphopt.runtime.words import Words

from ..fake_engine import CONTEXT, TOKENIZER, get, post


def test_a_prompt_has_tokens() -> None:
    found = post("/tokenize", {"model": "demo", "prompt": "hi you"}).json()
    assert Tokenized.model_validate(found).tokens == TOKENIZER.encode("hi you")
    assert (found["count"], found["max_model_len"]) == (len(found["tokens"]), CONTEXT)
    assert found["token_strs"] is None


def test_special_tokens_and_texts_are_a_choice() -> None:
    body = {"prompt": "hi", "add_special_tokens": False, "return_token_strs": True}
    found = post("/tokenize", body).json()
    assert found["tokens"] == TOKENIZER.encode("hi", add_special_tokens=False)
    assert "".join(found["token_strs"]) == "hi"


def test_a_conversation_has_the_tokens_of_its_prompt() -> None:
    talk = [{"role": "user", "content": "hey"}]
    found = post("/tokenize", {"messages": talk}).json()
    assert found["tokens"] == TOKENIZER.encode(TOKENIZER.render_chat(talk), False)
    found = post("/tokenize", {"messages": talk, "add_generation_prompt": False}).json()
    assert TOKENIZER.decode(found["tokens"], False).endswith("<|end|>\n")


def test_tokens_have_text() -> None:
    ids = TOKENIZER.encode("hi you")
    found = post("/detokenize", {"tokens": ids}).json()
    assert Detokenized.model_validate(found).prompt == "<|endoftext|>hi you"
    assert post("/detokenize", {"tokens": []}).json() == {"prompt": ""}


def test_a_prompt_may_be_longer_than_the_context_here() -> None:
    assert post("/tokenize", {"prompt": "a " * 1000}).json()["count"] > CONTEXT


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/tokenize", {}),
        ("/tokenize", {"prompt": "a", "messages": [{"role": "user", "content": "a"}]}),
        ("/tokenize", {"prompt": "a" * 40_000}),
        ("/detokenize", {"tokens": [10**6]}),
        ("/detokenize", {"tokens": ["a"]}),
    ],
)
def test_what_makes_no_sense_is_refused(path: str, body: dict[str, Any]) -> None:
    assert post(path, body).status_code == 400


def test_other_models_and_models_without_words() -> None:
    assert post("/tokenize", {"prompt": "a", "model": "x"}).status_code == 404
    assert post("/detokenize", {"tokens": [1]}, words=Words()).status_code == 400
    assert post("/tokenize", {"prompt": "a"}, words=Words()).status_code == 400


def test_special_tokens_and_the_template_are_told() -> None:
    found = TokenizerInfo.model_validate(get("/tokenizer_info").json())
    assert found.eos_token == TOKENIZER.special_tokens["eos_token"]
    assert found.chat_template == TOKENIZER.chat_template
    assert found.model_max_length == CONTEXT


def test_a_model_without_a_tokenizer_has_no_tokenizer_info() -> None:
    assert get("/tokenizer_info", words=Words()).status_code == 404

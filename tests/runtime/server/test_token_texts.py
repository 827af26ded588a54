"""Tokens as text and bytes, for tokenizers of every kind."""

from __future__ import annotations

import math

import pytest

from graphopt.runtime.server.token_texts import LEAST, TokenTexts, shown
from graphopt.runtime.tokenizer import Tokenizer

from ..tokenizers_zoo import bpe_suffix, byte_fallback, byte_level, metaspace, word_piece
from .fake_engine import TOKENIZER


def test_a_token_of_whole_characters_is_its_text() -> None:
    texts = TokenTexts(TOKENIZER)
    (token,) = TOKENIZER.encode(" the", add_special_tokens=False)
    assert texts.text_of(token) == " the"
    assert texts.bytes_of(token) == b" the"
    assert texts.text_of(token, as_id=True) == f"token_id:{token}"


def test_a_part_of_a_character_is_shown_as_bytes() -> None:
    texts = TokenTexts(TOKENIZER)
    halves = TOKENIZER.encode("é", add_special_tokens=False)
    assert [texts.text_of(one) for one in halves] == ["bytes:\\xc3", "bytes:\\xa9"]
    assert b"".join(texts.bytes_of(one) for one in halves) == "é".encode()


def test_special_tokens_are_shown_as_they_are_written() -> None:
    assert TokenTexts(TOKENIZER).text_of(0) == "<|endoftext|>"


def test_ids_without_a_token_and_models_without_a_tokenizer() -> None:
    assert TokenTexts(TOKENIZER).text_of(10**6) == ""
    assert TokenTexts(None).text_of(5) == "token_id:5"
    assert TokenTexts(None).bytes_of(5) == b""


@pytest.mark.parametrize("make", [byte_level, byte_fallback, metaspace, word_piece, bpe_suffix])
def test_tokens_of_the_middle_of_a_text_add_up_to_it(make) -> None:
    tokenizer = Tokenizer(make(), {})
    ids = [one for one in range(tokenizer.vocab_size) if not tokenizer.is_byte(one)]
    anchor = tokenizer._anchor
    for token in ids:
        alone = tokenizer.token_bytes(token)
        before = tokenizer.decode([anchor], skip_special_tokens=False)
        both = tokenizer.decode([anchor, token], skip_special_tokens=False)
        if "\ufffd" not in both:
            assert before + alone.decode() == both


def test_bytes_of_byte_fallback_are_bytes() -> None:
    tokenizer = Tokenizer(byte_fallback(), {})
    assert tokenizer.token_bytes(0xC3) == b"\xc3"


def test_a_logprob_is_a_number_of_json() -> None:
    assert shown(-1.5) == -1.5
    assert shown(-math.inf) == shown(math.nan) == LEAST

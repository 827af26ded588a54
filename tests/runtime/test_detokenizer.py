"""Streamed text adds up to the decoding of all tokens, for every kind of decoder and any tokens."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from graphopt.runtime.detokenizer import Detokenizer

from .tokenizers_zoo import ZOO, in_zoo

TOKENIZERS = {kind: in_zoo(kind) for kind in ZOO}


def stream(kind: str, tokens: list[int], skip: bool) -> list[str]:
    detokenizer = Detokenizer(TOKENIZERS[kind], skip)
    return [*map(detokenizer.push, tokens), detokenizer.flush()]


@pytest.mark.parametrize("kind", ZOO)
@settings(deadline=None, max_examples=150)
@given(data=st.data(), skip=st.booleans())
def test_pieces_add_up_to_the_whole(kind, data, skip):
    tokenizer = TOKENIZERS[kind]
    # Two ids past the end stand for rows of a vocabulary that was padded.
    tokens = data.draw(st.lists(st.integers(0, tokenizer.vocab_size + 1), max_size=30))
    whole = tokenizer.decode(tokens, skip_special_tokens=skip)
    assert "".join(stream(kind, tokens, skip)) == whole


@settings(deadline=None, max_examples=300)
@given(
    tokens=st.lists(
        st.one_of(
            st.integers(0xE0, 0xF4),
            st.integers(0x80, 0xBF),
            st.integers(0, 0x7F),
            st.integers(256, 280),
        ),
        max_size=16,
    )
)
@example(tokens=[0x41, 0xE2])
@example(tokens=[0xE2, 0x82, 0xAC, 0x41, 0xE2])
def test_runs_of_bytes_add_up_too(tokens):
    for kind in ("byte_fallback", "byte_fallback_no_strip", "byte_level"):
        whole = TOKENIZERS[kind].decode(tokens)
        assert "".join(stream(kind, tokens, True)) == whole


@settings(deadline=None, max_examples=200)
@given(text=st.text(max_size=20))
def test_no_piece_of_valid_text_holds_half_a_character(text):
    tokenizer = TOKENIZERS["byte_level"]
    tokens = tokenizer.encode(text, add_special_tokens=False)
    pieces = stream("byte_level", tokens, False)
    assert "".join(pieces) == text
    if "\ufffd" not in text:
        assert not any("\ufffd" in piece for piece in pieces)


def test_text_comes_as_soon_as_it_is_final():
    tokenizer = TOKENIZERS["byte_level"]
    tokens = tokenizer.encode("a€b", add_special_tokens=False)
    assert stream("byte_level", tokens, True) == ["a", "", "", "€", "b", ""]
    core = TOKENIZERS["byte_fallback"]
    ids = [core.token_id(token) for token in ("▁the", "<0xE2>", "<0x82>", "<0xAC>", "▁a")]
    assert stream("byte_fallback", ids, True) == ["the", "", "", "", "€ a", ""]


def test_leading_spaces_are_those_of_the_whole():
    tokenizer = TOKENIZERS["byte_fallback"]
    ids = [tokenizer.token_id(token) for token in ("<s>", "▁the", "▁", "▁a", "x")]
    assert stream("byte_fallback", ids, True) == ["", "the", " ", " a", "x", ""]


def test_special_tokens_are_shown_when_asked_for():
    tokenizer = TOKENIZERS["byte_level"]
    ids = [tokenizer.token_id("<s>"), tokenizer.token_id("a"), tokenizer.token_id("<tool>")]
    assert "".join(stream("byte_level", ids, False)) == "<s>a<tool>"
    assert "".join(stream("byte_level", ids, True)) == "a<tool>"


def test_the_work_per_token_does_not_grow():
    tokenizer = TOKENIZERS["byte_level"]
    longest = 0

    class Counting:
        is_visible = staticmethod(tokenizer.is_visible)
        is_byte = staticmethod(tokenizer.is_byte)

        def decode(self, ids, skip_special_tokens=True):
            nonlocal longest
            longest = max(longest, len(ids))
            return tokenizer.decode(ids, skip_special_tokens)

    detokenizer = Detokenizer(Counting())
    for token in tokenizer.encode("some text, été €uros " * 20, add_special_tokens=False):
        detokenizer.push(token)
    assert longest <= 5

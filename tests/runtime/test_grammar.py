"""Texts that masks allow are in the language; what is hostile ends with an error, and soon."""

from __future__ import annotations

import time
from functools import cache

import llguidance
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from graphopt.errors import RequestError, UnsupportedError
from graphopt.runtime.constraint import Constraint
from graphopt.runtime.grammar import (
    Vocabulary,
    check_constraint,
    compile_grammar,
    next_mask,
)
from graphopt.runtime.tokenizer import Tokenizer

from .constrained import HOSTILE, LANGUAGES, Language, choice, regex, schema
from .tokenizers_zoo import in_zoo

KINDS = ("byte_level", "byte_fallback_no_strip")


@cache
def vocabulary(kind: str) -> tuple[Tokenizer, Vocabulary]:
    tokenizer = in_zoo(kind)
    return tokenizer, Vocabulary.of(tokenizer, tokenizer.vocab_size + 7)


def tokens_of(mask: np.ndarray) -> np.ndarray:
    return np.nonzero(np.unpackbits(mask.view(np.uint8), bitorder="little"))[0]


def walk(language: Language, kind: str, seed: int, most: int = 120) -> str | None:
    """A text that random allowed tokens make; None if it does not end."""
    tokenizer, words = vocabulary(kind)
    grammar = compile_grammar(language.constraint, words)
    rng, drawn = np.random.default_rng(seed), []
    inner, mask, accepts = grammar.start.deep_copy(), grammar.mask, grammar.accepts
    while len(drawn) < most:
        allowed = tokens_of(mask)
        assert not words_special(tokenizer, allowed)
        if accepts and (not len(allowed) or rng.random() < 0.3):
            return tokenizer.decode(drawn)
        assert len(allowed), "a dead end"
        drawn.append(int(rng.choice(allowed)))
        assert inner.consume_token(drawn[-1])
        mask, accepts = next_mask(inner, words), inner.is_accepting()
        assert not inner.is_error(), inner.get_error()
    return None


def words_special(tokenizer: Tokenizer, allowed: np.ndarray) -> bool:
    known = [tokenizer.token_id(text) for text in ("<s>", "</s>")]
    return bool(np.isin(allowed, known).any() or (allowed >= tokenizer.vocab_size).any())


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=150, suppress_health_check=list(HealthCheck))
@given(language=LANGUAGES, seed=st.integers(0, 99))
def test_what_masks_allow_is_in_the_language(kind: str, language: Language, seed: int) -> None:
    text = walk(language, kind, seed)
    assert text is None or language.has(text), text


@pytest.mark.parametrize(
    "language",
    [
        regex(""),
        regex("(?:ab|a)(?:c|bcd)?"),
        regex("(?i)the"),
        regex("[a-z]{2} [0-9]"),
        regex("a|ab|abc"),
        choice(["a", "ab", "abc", "the x", "\n\t\x01\x7f", '"\\/{}']),
        choice(["é€", "é"]),
        schema({}),
        schema({"type": "object"}),
        schema({"type": "object", "properties": {"a": {"type": "number"}}}),
        schema({"type": "array", "items": {"anyOf": [{"type": "null"}, {"const": "x"}]}}),
        schema({"type": "string", "format": "date"}),
    ],
    ids=repr,
)
@pytest.mark.parametrize("kind", KINDS)
def test_usual_languages(kind: str, language: Language) -> None:
    texts = [walk(language, kind, seed) for seed in range(15)]
    assert any(text is not None for text in texts)
    assert all(text is None or language.has(text) for text in texts), texts


def test_anchors_mean_what_is_meant_anyway() -> None:
    assert walk(regex("^ab$"), "byte_level", 0) == "ab"


def test_a_schema_may_ask_for_white_space_and_for_leniency() -> None:
    spaced = {"type": "array", "x-guidance": {"whitespace_flexible": True}}
    _, words = vocabulary("byte_level")
    grammar = compile_grammar(Constraint.json_schema(spaced), words)
    inner = grammar.start.deep_copy()
    assert inner.validate_tokens([words.core.tokenize_str("[ ]")[0]]) == 1
    lenient = {"type": "null", "not": {}, "x-guidance": {"lenient": True}}
    assert walk(Language(Constraint.json_schema(lenient), bool), "byte_level", 0) == "null"


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_hostile_is_refused_soon(name: str) -> None:
    begun = time.monotonic()
    with pytest.raises(RequestError, match=HOSTILE[name].kind) as caught:
        check_constraint(HOSTILE[name])
    assert time.monotonic() - begun < 10  # on a loaded machine
    assert caught.value.got is not None
    assert len(str(caught.value)) < 1200


def test_a_model_may_have_fewer_tokens_than_its_tokenizer() -> None:
    tokenizer = in_zoo("byte_level")
    words = Vocabulary.of(tokenizer, 40)
    mask = compile_grammar(Constraint.regex(".+"), words).mask
    assert mask.shape == words.usable.shape == (2,)
    assert 0 < len(tokens_of(mask)) <= 40
    assert tokens_of(mask).max() < 40
    with pytest.raises(RequestError, match="cannot be met"):
        compile_grammar(Constraint.regex("z"), words)  # token 57 and up


@pytest.mark.parametrize("kind", ["metaspace", "word_piece", "bpe_suffix", "word_level"])
def test_tokenizers_without_bytes_are_refused(kind: str) -> None:
    with pytest.raises(UnsupportedError, match="tokenizer"):
        Vocabulary.of(in_zoo(kind), 100)


def test_special_tokens_cannot_be_asked_for_by_number() -> None:
    tokenizer, words = vocabulary("byte_level")
    end = tokenizer.token_id("</s>")
    with pytest.raises(RequestError, match="cannot be met"):
        compile_grammar(Constraint.grammar(f"start: <[{end}]>"), words)


def test_the_library_is_one_that_shares_what_copies_compute() -> None:
    _, words = vocabulary("byte_level")
    grammar = compile_grammar(Constraint.json_object(), words)
    assert isinstance(grammar.start, llguidance.LLMatcher)
    one, other = grammar.start.deep_copy(), grammar.start.deep_copy()
    brace = tokens_of(grammar.mask)[0]
    assert one.consume_token(int(brace))
    assert np.array_equal(next_mask(other, words), grammar.mask)

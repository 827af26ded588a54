"""Constraints to grammars: which tokens may come next, by llguidance (its ``docs/``, on GitHub).

before:  a constraint, and the tokens of a model
after:   a grammar, compiled, with the mask of the first token

What a request sends can be anything, so every step of the work is bounded: the length of the source
(``constraint.py``), the size of the grammar, and what its automata may cost. There is no back
reference and no look-around, and nothing is fetched that a schema refers to. JSON has no white
space, in which a small model could go round for ever, unless the schema itself asks for it with
``"x-guidance": {"whitespace_flexible": true}``; the same way it may be ``lenient``, which leaves
out keywords that are not known instead of refusing them.

Special tokens are in no text, so no grammar can ask for them. The end of the text is a token that
the model does not have; which tokens end a sample is the business of ``matcher.py``.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from typing import Any

import llguidance
import numpy as np
import numpy.typing as npt
import tokenizers

from graphopt.errors import RequestError, UnsupportedError

from .constraint import Constraint
from .tokenizer import Tokenizer

U32 = npt.NDArray[np.uint32]

# A schema of 200 texts of 150 characters has 30,000 states, of about 1 KB each. The rest are
# llguidance's own bounds, a fifth of a second each.
_LIMITS = llguidance.LLParserLimits(
    max_items_in_row=2000,
    initial_lexer_fuel=1_000_000,
    step_lexer_fuel=200_000,
    step_max_items=50_000,
    max_lexer_states=50_000,
    max_grammar_size=200_000,
    verbose_errors=False,
)
_JSON = {"whitespace_flexible": False}
_MESSAGE_CHARS = 400
_END = "<|end of the constrained text|>"


class Vocabulary:
    """A model's tokens, as a grammar sees them.

    Args:
        core: llguidance's form of the tokenizer, whose end of text is beyond the model's tokens.
        vocab_size: V, tokens of the model.
        special_ids: tokens that no text contains.

    Attributes:
        core: as given.
        usable: u32[ceil(V / 32)], a bit for each token of the model that is not special.
    """

    def __init__(
        self, core: llguidance.LLTokenizer, vocab_size: int, special_ids: frozenset[int]
    ) -> None:
        self.core = core
        bits = np.zeros(32 * ((vocab_size + 31) // 32), dtype=np.bool_)
        bits[:vocab_size] = True
        bits[[one for one in special_ids if one < vocab_size]] = False
        bits[[one for one in core.eos_tokens if one < vocab_size]] = False
        self.usable: U32 = np.packbits(bits, bitorder="little").view("<u4").astype(np.uint32)

    @classmethod
    def of(cls, tokenizer: Tokenizer, vocab_size: int) -> Vocabulary:
        """The vocabulary of a model; takes about a second for 128k tokens.

        Raises:
            UnsupportedError: this kind of tokenizer has no tokens that are bytes.
        """
        own = tokenizers.Tokenizer.from_str(tokenizer.as_json())
        own.add_special_tokens([tokenizers.AddedToken(_END, special=True)])
        end = int(own.token_to_id(_END) or 0)
        try:
            core = llguidance.LLTokenizer(
                own.to_str(), n_vocab=max(vocab_size, end + 1), eos_token=end
            )
        except ValueError as error:
            raise UnsupportedError(
                "answers cannot be constrained with this tokenizer",
                got=str(error)[:_MESSAGE_CHARS],
                expected="one whose tokens are bytes (byte-level), or that falls back to bytes",
            ) from error
        return cls(core, vocab_size, tokenizer.special_ids)

    def empty(self) -> U32:
        """Room for a mask, end of the text included."""
        return np.empty((self.core.vocab_size + 31) // 32, dtype=np.uint32)


@dataclass(slots=True)
class Grammar:
    """A constraint that was compiled.

    Attributes:
        vocabulary: for which tokens.
        start: the matcher of no tokens, to be copied.
        mask: u32[ceil(V / 32)], what may come first.
        accepts: whether the empty text is in the language.
        spent_s: time in which masks of its samples were computed.
    """

    vocabulary: Vocabulary
    start: llguidance.LLMatcher
    mask: U32
    accepts: bool
    spent_s: float = 0.0


def compile_grammar(constraint: Constraint, vocabulary: Vocabulary) -> Grammar:
    """Compile a constraint, which takes from a millisecond to some seconds.

    Raises:
        RequestError: it is not valid, too large, or no text is in its language.
    """
    text = _source_of(constraint)
    start = llguidance.LLMatcher(vocabulary.core, text, log_level=0, limits=_LIMITS)
    if start.is_error():
        raise refused(constraint, start.get_error())
    first = start.deep_copy()
    mask = next_mask(first, vocabulary)
    if first.is_error():
        raise refused(constraint, first.get_error())
    accepts = first.is_accepting()
    if not accepts and not mask.any():
        raise refused(constraint, "no text that these tokens can make is in it")
    return Grammar(vocabulary, start, mask, accepts)


def check_constraint(constraint: Constraint) -> None:
    """Compile a constraint for a vocabulary of bytes: what is wrong with it is wrong for any.

    Raises:
        RequestError: as ``compile_grammar``.
    """
    compile_grammar(constraint, _bytes())


def next_mask(matcher: llguidance.LLMatcher, vocabulary: Vocabulary) -> U32:
    """What may come next, u32[ceil(V / 32)]; it means nothing if the matcher is in error after."""
    whole = vocabulary.empty()
    matcher.unsafe_compute_mask_ptr(whole.ctypes.data, whole.nbytes)
    return whole[: len(vocabulary.usable)] & vocabulary.usable


def refused(constraint: Constraint, why: str) -> RequestError:
    """The error of a constraint that cannot be met."""
    return RequestError(
        f"the constraint of kind {constraint.kind} cannot be met",
        got=why.replace("<non-verbose/>", "").strip()[:_MESSAGE_CHARS],
        next="simplify it; look-around, back references and some keywords of JSON schemas are not "
        "supported",
    )


def _source_of(constraint: Constraint) -> str:
    """A constraint in llguidance's language.

    Raises:
        RequestError: the source is not even JSON where it has to be.
    """
    make: Any = llguidance.LLMatcher
    match constraint.kind:
        case "json_object":
            return str(make.grammar_from_json_schema('{"type":"object"}', defaults=_JSON))
        case "regex":
            return str(make.grammar_from_regex(constraint.source))
        case "choice":
            return str(make.grammar_from_regex("|".join(map(_literal, constraint.choices))))
        case "grammar":
            return str(make.grammar_from_lark(constraint.source))
        case _:
            return str(make.grammar_from_json_schema(_schema(constraint), defaults=_JSON))


def _literal(text: str) -> str:
    """A pattern that matches ``text`` alone."""
    return "".join(one if one.isalnum() else f"\\x{{{ord(one):X}}}" for one in text)


def _schema(constraint: Constraint) -> str:
    """The source of a JSON schema as an object."""
    try:
        schema = json.loads(constraint.source)
    except (ValueError, RecursionError) as error:
        raise refused(constraint, f"{type(error).__name__}: {error}") from error
    if schema is True:
        return "{}"
    if not isinstance(schema, dict):
        raise refused(constraint, f"the schema is {ascii(schema)[:40]}, not an object")
    return constraint.source


@cache
def _bytes() -> Vocabulary:
    """A vocabulary of all single bytes."""

    class Bytes:
        eos_token_id, bos_token_id = 256, None
        tokens = (*(bytes([one]) for one in range(256)), _END.encode())
        special_token_ids = (256,)

        def __call__(self, text: bytes | str) -> list[int]:
            return list(text.encode() if isinstance(text, str) else text)

    return Vocabulary(
        llguidance.LLTokenizer(llguidance.TokenizerWrapper(Bytes())), 256, frozenset()
    )

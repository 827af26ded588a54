"""What the text of an answer has to be: plain data, which ``grammar.py`` turns into masks.

A constraint is a kind and a source, both text, so it is the same in a request, on the wire and in a
cache's key. Whether the source makes sense is found out where it is compiled.

Usage: ``SamplingParams(constraint=Constraint.json_schema({"type": "integer"}))``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from graphopt.errors import RequestError

JSON_SCHEMA, JSON_OBJECT, REGEX = "json_schema", "json_object", "regex"
CHOICE, GRAMMAR = "choice", "grammar"
KINDS = (JSON_SCHEMA, JSON_OBJECT, REGEX, CHOICE, GRAMMAR)

# A schema of a large API is some tens of thousands of characters.
MAX_SOURCE_CHARS = 256 << 10
MAX_CHOICES = 4096


@dataclass(frozen=True, slots=True)
class Constraint:
    """A language that an answer has to be in.

    Attributes:
        kind: ``json_schema``, ``json_object``, ``regex``, ``choice`` or ``grammar``.
        source: the schema, as JSON; nothing; the pattern, which the whole text matches; the
            choices, as a JSON list of strings; or the grammar, in Lark's language as llguidance
            reads it.

    Raises:
        RequestError: the kind is not known, or the source is no text, or too long.
    """

    kind: str
    source: str = ""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise RequestError(
                "the kind of constraint is not known",
                got=repr(self.kind),
                expected=", ".join(KINDS),
            )
        if not isinstance(self.source, str) or not _is_unicode(self.source):
            raise RequestError(
                f"a constraint of kind {self.kind} is not valid",
                got=ascii(self.source)[:100],
                expected="its source as text",
            )
        if len(self.source) > MAX_SOURCE_CHARS:
            raise RequestError(
                f"a constraint of kind {self.kind} is too long",
                got=f"{len(self.source)} characters",
                expected=f"at most {MAX_SOURCE_CHARS}",
            )

    @classmethod
    def json_schema(cls, schema: Mapping[str, Any] | bool | str) -> Constraint:
        """JSON that is valid under ``schema``, given as an object or as text; without white space.

        Raises:
            RequestError: the schema is no JSON, or too long.
        """
        return cls(JSON_SCHEMA, schema if isinstance(schema, str) else _as_json(schema))

    @classmethod
    def json_object(cls) -> Constraint:
        """Any JSON object, without white space."""
        return cls(JSON_OBJECT)

    @classmethod
    def regex(cls, pattern: str) -> Constraint:
        """Text that ``pattern`` matches from its beginning to its end.

        Raises:
            RequestError: the pattern is no text, or too long.
        """
        return cls(REGEX, pattern)

    @classmethod
    def choice(cls, choices: Iterable[str]) -> Constraint:
        """One of several texts.

        Raises:
            RequestError: there are none, too many, or they are too long together.
        """
        return cls(CHOICE, _as_json(_checked_choices(choices)))

    @classmethod
    def grammar(cls, lark: str) -> Constraint:
        """Text that a grammar generates, whose first rule is ``start``.

        Raises:
            RequestError: the grammar is no text, or too long.
        """
        return cls(GRAMMAR, lark)

    @classmethod
    def of(cls, value: object) -> Constraint:
        """``value`` as a constraint: itself, or what ``plain`` made of one.

        Raises:
            RequestError: it is neither.
        """
        if isinstance(value, Constraint):
            return value
        if isinstance(value, Mapping) and {"kind"} <= {*value} <= {"kind", "source"}:
            return cls(value["kind"], value.get("source", ""))
        raise RequestError(
            "constraint is not valid",
            got=ascii(value)[:100],
            expected="a Constraint, or its kind and source by name",
        )

    @property
    def plain(self) -> dict[str, str]:
        """It, as data for the wire."""
        return {"kind": self.kind, "source": self.source}

    @property
    def choices(self) -> list[str]:
        """The texts of a constraint of kind ``choice``.

        Raises:
            RequestError: the source is no list of texts.
        """
        try:
            found = json.loads(self.source)
        except (ValueError, RecursionError) as error:
            raise _not_choices(error) from error
        return _checked_choices(found)


def _checked_choices(choices: object) -> list[str]:
    """Each of ``choices`` once."""
    if isinstance(choices, str | bytes | Mapping) or not isinstance(choices, Iterable):
        raise _not_choices(ascii(choices)[:100])
    found = list(choices)
    if not found or len(found) > MAX_CHOICES:
        raise _not_choices(f"{len(found)} of them")
    for one in found:
        if not isinstance(one, str) or not one or not _is_unicode(one):
            raise _not_choices(ascii(one)[:100])
    return list(dict.fromkeys(found))


def _not_choices(got: object) -> RequestError:
    return RequestError(
        "the choices are not valid",
        got=got,
        expected=f"1 to {MAX_CHOICES} strings of valid Unicode that are not empty",
    )


def _as_json(value: object) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        raise RequestError("a constraint's source is no JSON", got=error) from error


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)

"""Constraints of every kind with what their texts have to be, and what is hostile."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jsonschema_rs
from hypothesis import strategies as st

from graphopt.runtime.constraint import Constraint


@dataclass(frozen=True)
class Language:
    """A constraint, and whether a whole text is in it."""

    constraint: Constraint
    has: Callable[[str], bool]

    def __repr__(self) -> str:
        return f"{self.constraint}"


def regex(pattern: str) -> Language:
    """A pattern; of characters that came to Unicode after this Python, nothing is known."""

    def has(text: str) -> bool:
        if any(unicodedata.category(one) == "Cn" for one in text):
            return True
        return re.fullmatch(pattern, text) is not None

    return Language(Constraint.regex(pattern), has)


def choice(choices: list[str]) -> Language:
    return Language(Constraint.choice(choices), lambda text: text in choices)


def schema(source: Any) -> Language:
    valid = jsonschema_rs.validator_for(source)

    def has(text: str) -> bool:
        value = json.loads(text)
        compact = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
        # As long as without white space, but for numbers and escapes, which have many forms.
        plain = not re.search(r"[\\.eE]|-0", text)
        return valid.is_valid(value) and (text == compact or not plain)

    return Language(Constraint.json_schema(source), has)


def _objects(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    names = st.sampled_from(["a", "name", "é", "x y", '"'])
    return st.dictionaries(names, inner, max_size=3).flatmap(
        lambda properties: st.just(
            {
                "type": "object",
                "properties": properties,
                "required": list(properties),
                "additionalProperties": False,
            }
        )
    )


def _arrays(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return inner.map(lambda items: {"type": "array", "items": items, "maxItems": 2})


LEAVES: st.SearchStrategy[Any] = st.one_of(
    st.just({"type": "boolean"}),
    st.just({"type": "null"}),
    st.builds(
        lambda low, size: {"type": "integer", "minimum": low, "maximum": low + size},
        st.integers(-50, 50),
        st.integers(0, 200),
    ),
    st.builds(lambda most: {"type": "string", "maxLength": most}, st.integers(0, 6)),
    st.just({"type": "string", "pattern": "^[a-c]{1,4}$"}),
    st.lists(st.sampled_from([1, "one", None, True, "ü"]), min_size=1, unique=True).map(
        lambda values: {"enum": values}
    ),
)
SCHEMAS: st.SearchStrategy[Any] = st.recursive(
    LEAVES, lambda inner: st.one_of(_objects(inner), _arrays(inner)), max_leaves=6
)
PATTERNS = st.recursive(
    st.sampled_from(["a", "b", "é", "[a-c]", r"\d", "€", ".", "the", "[^a]", r"\."]),
    lambda inner: st.one_of(
        st.tuples(inner, inner).map("".join),
        st.tuples(inner, inner).map(lambda two: f"(?:{two[0]}|{two[1]})"),
        inner.map(lambda one: f"(?:{one}){{0,2}}"),
        inner.map(lambda one: f"(?:{one})?"),
    ),
    max_leaves=5,
)
CHOICES = st.lists(
    st.text(st.characters(codec="utf-8"), min_size=1, max_size=8),
    min_size=1,
    max_size=6,
    unique=True,
)
LANGUAGES = st.one_of(SCHEMAS.map(schema), PATTERNS.map(regex), CHOICES.map(choice))


def _deep(levels: int) -> str:
    return '{"type":"array","items":' * levels + "true" + "}" * levels


HOSTILE: dict[str, Constraint] = {
    "unbalanced": Constraint.regex("("),
    "deep groups": Constraint.regex("(" * 60_000 + "a" + ")" * 60_000),
    "look-around": Constraint.regex("a(?=b)"),
    "back reference": Constraint.regex(r"(a)\1"),
    "nothing": Constraint.regex(r"[^\s\S]"),
    "no JSON": Constraint.json_schema("{"),
    "no schema": Constraint.json_schema("[1]"),
    "nothing valid": Constraint.json_schema(False),
    "deep schema": Constraint.json_schema(_deep(4000)),
    "deeper schema": Constraint("json_schema", "[" * 100_000),
    "loop": Constraint.json_schema({"$ref": "#"}),
    "two loops": Constraint.json_schema(
        {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}
    ),
    "fetches": Constraint.json_schema({"$ref": "http://127.0.0.1:9/schema.json"}),
    "reads": Constraint.json_schema({"$ref": "file:///etc/passwd"}),
    "unknown keyword": Constraint.json_schema({"not": {"type": "string"}}),
    "products": Constraint.json_schema(
        {
            "allOf": [
                {"anyOf": [{"properties": {f"x{i}_{j}": {"const": i}}} for i in range(10)]}
                for j in range(12)
            ]
        }
    ),
    "no such number": Constraint.json_schema({"type": "integer", "minimum": 5, "maximum": 3}),
    "special token": Constraint.grammar('start: <|eot_id|> "a"'),
    "other grammar": Constraint.grammar("start: @other"),
    "file": Constraint.grammar('%import "/etc/passwd"\nstart: "a"'),
    "no grammar": Constraint.grammar("\x00"),
    "empty grammar": Constraint.grammar(""),
}

# What may be refused or not, but must not hold up others for long.
SLOW: dict[str, Constraint] = {
    "nested repetitions": Constraint.regex("(a{1000}){1000}"),
    "nested repetitions later": Constraint.regex("a(a{1000}){1000}"),
    "exponential": Constraint.regex("(a|b)*a(a|b){300}"),
    "overlapping": Constraint.regex("(.*[a-f]){3}.{100}(x|y)"),
    "long words": Constraint.regex(r"[\p{L}\p{N}]{1,5000}"),
    "many properties": Constraint.json_schema(
        {"type": "object", "properties": {f"p{i}": {"type": "string"} for i in range(2500)}}
    ),
    "many alternatives": Constraint.json_schema(
        {"anyOf": [{"type": "object", "properties": {"x": {"const": i}}} for i in range(2500)]}
    ),
    "ambiguous": Constraint.grammar('start: a\na: a a | "a" | "a" a | '),
}

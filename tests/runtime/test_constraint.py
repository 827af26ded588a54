"""Constraints are checked when they are made, and are the same as plain data."""

import pytest

from graphopt.errors import RequestError
from graphopt.runtime.constraint import MAX_CHOICES, MAX_SOURCE_CHARS, Constraint


def test_each_kind_is_text():
    assert Constraint.json_schema({"type": "string"}).source == '{"type":"string"}'
    assert Constraint.json_schema('{"type": "string"}').source == '{"type": "string"}'
    assert Constraint.json_schema(True).source == "true"
    assert Constraint.json_object() == Constraint("json_object", "")
    assert Constraint.regex("a|b").plain == {"kind": "regex", "source": "a|b"}
    assert Constraint.choice(["é", "b", "é"]).source == '["é","b"]'
    assert Constraint.choice(iter("ab")).choices == ["a", "b"]
    assert Constraint.grammar('start: "a"').kind == "grammar"


def test_plain_data_is_a_constraint_again():
    one = Constraint.choice(["a", "b"])
    assert Constraint.of(one) is one
    assert Constraint.of(one.plain) == one
    assert Constraint.of({"kind": "json_object"}) == Constraint.json_object()


@pytest.mark.parametrize(
    "value",
    [
        None,
        "regex",
        {},
        {"source": "a"},
        {"kind": "regex", "source": 3},
        {"kind": "regex", "source": "\ud800"},
        {"kind": "regexp", "source": "a"},
        {"kind": ["regex"], "source": "a"},
        {"kind": "regex", "source": "a", "flags": "i"},
        {"kind": "regex", "source": "a" * (MAX_SOURCE_CHARS + 1)},
    ],
    ids=lambda value: ascii(value)[:40],
)
def test_what_is_no_constraint_is_refused(value):
    with pytest.raises(RequestError):
        Constraint.of(value)


@pytest.mark.parametrize(
    "choices",
    [[], "ab", b"ab", {"a": 1}, 5, [""], [3], ["\udc00"], ["a"] * (MAX_CHOICES + 1)],
    ids=lambda value: ascii(value)[:20],
)
def test_what_are_no_choices_is_refused(choices):
    with pytest.raises(RequestError, match="choices"):
        Constraint.choice(choices)


@pytest.mark.parametrize("source", ["", "[", '{"a": 1}', "[1]", "[" * 100_000])
def test_choices_from_the_wire_are_checked(source):
    with pytest.raises(RequestError, match="choices"):
        _ = Constraint("choice", source).choices


def test_a_schema_that_is_no_json_is_refused():
    endless = {}
    endless["a"] = endless
    for schema in (endless, {"a": object()}, {"a": float("nan")}):
        with pytest.raises(RequestError, match="no JSON"):
            Constraint.json_schema(schema)

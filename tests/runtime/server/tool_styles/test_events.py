"""What parsers share: members of an object with their text, and what may begin a mark."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphopt.runtime.server.tool_styles.events import (
    Arguments,
    Begin,
    Call,
    call_of,
    head_of,
    held_back,
    joined,
    loads,
    members_of,
)

NAMES = frozenset(("f", "g"))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)


@given(st.dictionaries(st.text(max_size=4), VALUES, max_size=4), st.sampled_from([None, 1, 2]))
def test_members_are_those_of_json_and_their_text_is_kept(value: dict, indent: int | None) -> None:
    text = " \n" + json.dumps(value, indent=indent) + "\t"
    found = members_of(text)
    assert found is not None
    assert {key: one for key, (one, _) in found.items()} == value
    for one, written in found.values():
        assert written in text
        assert json.loads(written) == one


@given(st.text(alphabet='{}[]":,a1 \\', max_size=12))
def test_what_has_members_is_a_json_object(text: str) -> None:
    value = loads(text)
    found = members_of(text)
    assert (found is not None) == isinstance(value, dict)
    if found is not None:
        assert {key: one for key, (one, _) in found.items()} == value


def test_a_call_has_a_known_name_and_an_object() -> None:
    spaced = '{ "name": "f", "arguments": {"a":  1.50} }'
    assert call_of(spaced, ("arguments",), NAMES) == Call("f", '{"a":  1.50}')
    inner = json.dumps({"name": "g", "arguments": '{"a": 1}'})
    assert call_of(inner, ("parameters", "arguments"), NAMES) == Call("g", '{"a": 1}')


@pytest.mark.parametrize(
    "text",
    [
        '{"name": "h", "arguments": {}}',
        '{"name": "f"}',
        '{"name": ["f"], "arguments": {}}',
        '{"name": "f", "arguments": [1]}',
        '{"name": "f", "arguments": "[1]"}',
        '{"name": "f", "arguments": {"a": NaN}}',
        '{"name": "f", "arguments": {}',
        '{"name": "f", "arguments": {}} x',
        "[" * 100_000,
        '{"name": "f", "arguments": ' + '{"a":' * 100_000,
        "",
    ],
    ids=lambda text: text[:40],
)
def test_what_is_no_call(text: str) -> None:
    assert call_of(text, ("arguments",), NAMES) is None


def test_the_beginning_of_a_mark_is_held_back() -> None:
    assert held_back("ab<to", "<tool>") == 3
    assert held_back("ab<tool>", "<tool>") == 0
    assert held_back("<<", "<tool>") == 1
    assert held_back("", "<tool>") == 0


def test_events_add_up() -> None:
    events = ["a", Begin("f"), Arguments("{"), "b", Arguments("}"), Begin("g"), "c"]
    assert joined(events) == ("abc", [Call("f", "{}"), Call("g", "")])
    assert joined(Call("f", "{}").events) == ("", [Call("f", "{}")])


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (' {"name": "f", "arguments" :\n{', ("f", 29)),
        ('{"id": 1, "a": {"name": "h"}, "name": "g", "arguments": {"b', ("g", 56)),
        ('{"name": "f", "arguments": ', None),
        ('{"name": "f", "arguments": "', None),
        ('{"name": "h", "arguments": {', None),
        ('{"name": ["f"], "arguments": {', None),
        ('{"arguments": {', None),
        ('{"arguments": {}, "name": "f", "arguments": {', None),
        ('{"name": "f" "arguments": {', None),
        ('{"name" "f", "arguments": {', None),
        ('["name", "f", "arguments", {', None),
        ('{"a": ' + "[" * 900, None),
        ("", None),
    ],
)
def test_the_head_of_a_call(text: str, found: tuple[str, int] | None) -> None:
    assert head_of(text, ("arguments",), NAMES) == found

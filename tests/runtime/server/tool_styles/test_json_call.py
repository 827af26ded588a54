"""An object that may be a call: followed through brackets and strings, given on when it is one."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphopt.runtime.server.tool_styles.events import Arguments, Begin, joined
from graphopt.runtime.server.tool_styles.json_call import (
    CLOSED,
    HEAD_CHARS,
    MARKED,
    Brackets,
    JsonCall,
)

from .cuts import NAMES
from .test_events import VALUES

KEYS = ("arguments", "parameters")


@given(VALUES, st.integers(0, 60))
def test_json_ends_where_its_last_bracket_closes(value: object, cut: int) -> None:
    text = json.dumps([value])
    cut = min(cut, len(text))
    brackets = Brackets()
    place, end = brackets.read(text[:cut], 0, 0)
    if end is None:
        place, end = brackets.read(text + " ]}", place, 0)
    assert (place, end) == (len(text), CLOSED)


@given(st.dictionaries(st.text(max_size=4), VALUES, max_size=4), st.integers(0, 99))
def test_arguments_are_the_text_that_was_written(value: dict, cut: int) -> None:
    written = json.dumps(value)
    text = f'{{"name": "f", "arguments": {written}}} and on'
    call = JsonCall(KEYS, NAMES)
    events = call.push(text[:cut])
    events += call.push(text[cut:]) if call.end is None else []
    ((name, arguments),) = ((one.name, one.arguments) for one in joined(events)[1])
    assert (name, arguments) == ("f", written)
    assert (call.is_call, call.end) == (True, CLOSED)


def test_a_mark_ends_it_but_not_within_a_string() -> None:
    call = JsonCall(KEYS, NAMES, "<end>")
    events = call.push('{"name": "f", "arguments": {"a": "<end>", <en')
    assert events == [Begin("f"), Arguments('{"a": "<end>", ')]
    assert call.push("d>more") == []
    assert (call.end, call.rest) == (MARKED, "more")


@pytest.mark.parametrize("size", [0, HEAD_CHARS - 60, HEAD_CHARS, 3 * HEAD_CHARS])
def test_what_begins_late_is_kept_until_it_is_complete(size: int) -> None:
    text = json.dumps({"why": "x" * size, "name": "f", "arguments": {"a": 1}})
    for step in (1, 7, len(text)):
        call = JsonCall(KEYS, NAMES)
        found = [call.push(text[start : start + step]) for start in range(0, len(text), step)]
        assert joined(event for events in found for event in events)[1][0].arguments == '{"a": 1}'
        early = any(isinstance(one, Begin) for events in found[:-1] for one in events)
        assert early == (size < HEAD_CHARS - 50 and step < len(text))


def test_long_texts_are_read_once() -> None:
    call = JsonCall(KEYS, NAMES)
    call.push('{"name": "f", "arguments": {"a": "')
    for _ in range(20_000):
        call.push("<{ ")
    assert call.push('"}}x') == [Arguments('"}')]
    assert call.rest == "x"

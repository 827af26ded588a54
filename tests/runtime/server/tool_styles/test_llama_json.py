"""An answer that is JSON objects becomes calls; all else stays text."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.runtime.server.tool_styles.events import Call, parse
from graphopt.runtime.server.tool_styles.llama_json import TAG, LlamaJsonParser

from .cuts import CUTS, NAMES, check_cuts, texts

CALL = '{"name": "f", "parameters": {"a": "}\\""}}'
F = Call("f", '{"a": "}\\""}')


@settings(max_examples=400)
@given(texts(TAG, CALL, "; ", '{"a": 1}', '{"name": "f", "parameters": {}}'), CUTS)
def test_cuts_change_nothing(text: str, cuts: list[int]) -> None:
    check_cuts(lambda: LlamaJsonParser(NAMES), text, cuts)


@given(st.text(max_size=30).filter(lambda text: not text.lstrip().startswith("{")))
def test_text_without_a_call_stays_as_it_is(text: str) -> None:
    assert parse(LlamaJsonParser(NAMES), text) == (text, [])


@pytest.mark.parametrize(
    ("text", "content", "calls"),
    [
        (CALL, "", [F]),
        (f" {TAG}\n{CALL}\n", "", [F]),
        (f"{CALL}; {CALL}", "", [F, F]),
        (f"{CALL} and so on", "and so on", [F]),
        (f"{CALL}; " + '{"answer": 1}', '{"answer": 1}', [F]),
        ('{"answer": 1}', None, []),
        ('{"name": "other", "parameters": {}}', None, []),
        ('{"name": "f", "parameters": {', None, []),
        (f'{TAG}search.call(query="x")', None, []),
        (f"{TAG}{TAG}{CALL}", None, []),
        (f"Here: {CALL}", None, []),
        (TAG, None, []),
        ("<|python", None, []),
        (" \n", None, []),
        ("", "", []),
    ],
)
def test_calls(text: str, content: str | None, calls: list[Call]) -> None:
    expected = text if content is None else content
    assert parse(LlamaJsonParser(NAMES), text) == (expected, calls)


def test_text_is_given_at_once_when_it_is_no_call() -> None:
    parser = LlamaJsonParser(NAMES)
    assert parser.push("He") == ["He"]
    assert parser.push("llo {") == ["llo {"]

"""An answer that is JSON objects becomes calls; all else stays text."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.runtime.server.tool_styles.events import Arguments, Begin, Call, parse
from graphopt.runtime.server.tool_styles.llama_json import TAG, LlamaJsonParser

from .cuts import CUTS, NAMES, check_all_cuts, check_cuts, texts

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
        ('{"name": "f", "parameters": {', "", [Call("f", "{")]),
        ('{"name": "f", "parameters": ', None, []),
        ('{"name": "f", "parameters": {"a": 1}, "b": 2} so', "so", [Call("f", '{"a": 1}')]),
        ('{"parameters": {"a": 1}, "name": "f"}', "", [Call("f", '{"a": 1}')]),
        ('{"name": "f", "parameters": "{}"}', "", [Call("f", "{}")]),
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


@pytest.mark.parametrize(
    "text",
    [
        f"{TAG}{CALL}; {CALL} so",
        '{"parameters": {"a": 1}, "name": "f"}, {"name": "g"}',
        '{"name": "f", "parameters": {"a": "}\\"", "b": [{}]}, "c": "}"} so',
        '{"name": "f", "parameters": {"a": ',
        '{"answer": {"name": "f", "parameters": {}}}',
    ],
    ids=str,
)
def test_every_cut_gives_the_same(text: str) -> None:
    check_all_cuts(lambda: LlamaJsonParser(NAMES), text)


def test_arguments_are_given_as_they_come() -> None:
    parser = LlamaJsonParser(NAMES)
    assert parser.push('{"name": "f", "parameters": ') == []
    assert parser.push('{"a') == [Begin("f"), Arguments('{"a')]
    assert parser.push('": 1}') == [Arguments('": 1}')]
    assert parser.push("}; ") == []
    assert parser.finish() == []

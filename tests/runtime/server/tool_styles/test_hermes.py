"""JSON between tags becomes calls; all else stays text."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.runtime.server.tool_styles.events import Call, parse
from graphopt.runtime.server.tool_styles.hermes import BEGIN, END, HermesParser

from .cuts import CUTS, NAMES, check_cuts, texts

CALL = f'{BEGIN}\n{{"name": "f", "arguments": {{"a": 1}}}}\n{END}'
F = Call("f", '{"a": 1}')


@settings(max_examples=400)
@given(texts(BEGIN, END, CALL, '{"name": "f", "arguments": {}}', '"</tool_call>"'), CUTS)
def test_cuts_change_nothing(text: str, cuts: list[int]) -> None:
    check_cuts(lambda: HermesParser(NAMES), text, cuts)


@given(st.text(max_size=40).filter(lambda text: BEGIN not in text))
def test_text_without_a_call_stays_as_it_is(text: str) -> None:
    assert parse(HermesParser(NAMES), text) == (text, [])


@pytest.mark.parametrize(
    ("text", "content", "calls"),
    [
        (CALL, "", [F]),
        (f"\n{CALL}\n{CALL}\n", "", [F, F]),
        (f"I look.\n\n{CALL} Then. ", "I look.Then. ", [F]),
        (CALL.removesuffix(END), "", [F]),  # the answer ended there
        (f"{BEGIN}no JSON{END}", f"{BEGIN}no JSON{END}", []),
        (f"{BEGIN}no JSON{END}{CALL}", f"{BEGIN}no JSON{END}", [F]),
        (f"{BEGIN}" + '{"name": "other", "arguments": {}}', None, []),
        (f"{BEGIN}" + '{"name": "f", "arguments": {"a": ', None, []),
        (
            f'{BEGIN}{{"name": "f", "arguments": {{"a": "{END} \\" {END}"}}}}{END}',
            "",
            [Call("f", f'{{"a": "{END} \\" {END}"}}')],
        ),
        ("<tool_", None, []),
        ("", "", []),
    ],
)
def test_calls(text: str, content: str | None, calls: list[Call]) -> None:
    expected = text if content is None else content
    assert parse(HermesParser(NAMES), text) == (expected, calls)


def test_text_is_given_as_soon_as_it_is_sure() -> None:
    parser = HermesParser(NAMES)
    assert parser.push("Hello <to") == ["Hello"]
    assert parser.push("p> ") == [" <top>"]
    assert parser.finish() == [" "]

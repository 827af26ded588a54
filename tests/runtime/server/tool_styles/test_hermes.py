"""JSON between tags becomes calls; all else stays text."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.runtime.server.tool_styles.events import Arguments, Begin, Call, parse
from graphopt.runtime.server.tool_styles.hermes import BEGIN, END, HermesParser

from .cuts import CUTS, NAMES, check_all_cuts, check_cuts, texts

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
        (f"{BEGIN}" + '{"name": "f", "arguments": {"a": ', "", [Call("f", '{"a": ')]),
        (f"{BEGIN}" + '{"name": "f", "arguments": ', None, []),
        (
            f"{BEGIN}" + '{"name": "f", "arguments": {"a": ' + f"{END}so",
            "so",
            [Call("f", '{"a": ')],
        ),
        (CALL[:-1], "", [F]),
        (CALL.replace(END, f"so{END}"), f"so{END}", [F]),
        (CALL.replace("}}", '}, "id": {"b": 2}}'), "", [F]),
        (f'{BEGIN}{{"arguments": {{"a": 1}}, "name": "f"}}{END}', "", [F]),
        (f'{BEGIN}{{"name": "f", "arguments": "{{}}"}}{END}', "", [Call("f", "{}")]),
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


@pytest.mark.parametrize(
    "text",
    [
        f"So: {CALL}\n{CALL} end",
        f'{BEGIN}{{"arguments": {{}}, "name": "f"}}{END}x',
        f'{BEGIN}{{"name": "f", "arguments": {{"a": "<{END}\\"", "b": [{{}}]}}, "c": "}}"}} {END}',
        f'{BEGIN}{{"name": "f", "arguments": {{"a": <</tool_call>{BEGIN}no{END}',
        f'{BEGIN}{{"name": "g", "arguments": {{}}}}{END}',
        CALL[:-3],
    ],
    ids=str,
)
def test_every_cut_gives_the_same(text: str) -> None:
    check_all_cuts(lambda: HermesParser(NAMES), text)


def test_arguments_are_given_as_they_come() -> None:
    parser = HermesParser(NAMES)
    assert parser.push(f'{BEGIN}\n{{"name": "f", "arguments": ') == []
    assert parser.push('{"a') == [Begin("f"), Arguments('{"a')]
    assert parser.push('": "x<') == [Arguments('": "x<')]
    assert parser.push('/tool_call>"') == [Arguments('/tool_call>"')]
    assert parser.push("}}\n") == [Arguments("}")]
    assert parser.push(END) == []
    assert parser.finish() == []

"""A list of calls in Python becomes calls, and nothing of it is ever run."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.runtime.server.tool_styles.events import Call, parse
from graphopt.runtime.server.tool_styles.llama_json import TAG
from graphopt.runtime.server.tool_styles.pythonic import MAX_CHARS, PythonicParser

from .cuts import CUTS, NAMES, check_cuts, texts


@settings(max_examples=300)
@given(texts("[f(a=1)]", "[f(", "f(x='a')", ", ", TAG, "get_weather(city=[1, {'a': None}])"), CUTS)
def test_cuts_change_nothing(text: str, cuts: list[int]) -> None:
    check_cuts(lambda: PythonicParser(NAMES), text, cuts)


@given(st.text(max_size=30).filter(lambda text: "(" not in text))
def test_text_without_a_call_stays_as_it_is(text: str) -> None:
    assert parse(PythonicParser(NAMES), text) == (text, [])


def test_calls() -> None:
    text = (
        ' [get_weather(city="Zürich", days=-3, on=True, of=None, x=[1, 2.5], y={"a": (1,)}), f()]\n'
    )
    arguments = (
        '{"city": "Zürich", "days": -3, "on": true, "of": null, "x": [1, 2.5], "y": {"a": [1]}}'
    )
    expected = ("", [Call("get_weather", arguments), Call("f", "{}")])
    assert parse(PythonicParser(NAMES), text) == expected
    assert parse(PythonicParser(NAMES), TAG + text.strip()) == expected
    assert parse(PythonicParser(NAMES), "[f(a=true, b=null)]")[1] == [
        Call("f", '{"a": true, "b": null}')
    ]


@pytest.mark.parametrize(
    "text",
    [
        "[f(1)]",
        "[f(**{})]",
        "[f(a=1, a=2)]",
        "[f(a=__import__('os').system('true'))]",
        "[f(a=f())]",
        "[f(a=1e999)]",
        "[f(a=b'x')]",
        "[f(a={1: 2})]",
        "[f(a=1j)]",
        "[f(a=-True)]",
        "[other(a=1)]",
        "[f(a=1)] and so on",
        "[f(a=1), 3]",
        "[f(a=1",
        "[f for f in f()]",
        "[(lambda: f)()(a=1)]",
        "[f(a=" + "(" * 5000 + "1" + ")" * 5000 + ")]",
        "[f(a=" + "-" * 5000 + "1)]",
        "[f(a='\\ud800')]x",
        "[f(a=1" + " " * MAX_CHARS + ")]",
        "[1, 2]",
        "[]",
        "[",
        "",
    ],
    ids=lambda text: text[:30],
)
def test_what_is_no_call_stays_text(text: str) -> None:
    assert parse(PythonicParser(NAMES), text) == (text, [])


def test_text_is_given_at_once_when_it_is_no_call() -> None:
    parser = PythonicParser(NAMES)
    assert parser.push("[f") == []
    assert parser.push(" is") == ["[f is"]
    assert parser.push(" so") == [" so"]

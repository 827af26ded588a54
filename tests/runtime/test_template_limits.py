"""Operations that would make a huge value are refused before they make it; others are not."""

from __future__ import annotations

import pytest

from graphopt.errors import RequestError
from graphopt.runtime.chat_template import ChatTemplate
from graphopt.runtime.template_limits import MAX_VALUE_CHARS, chars

HUGE = 9_999_999_999


def render(expression: str) -> str:
    return ChatTemplate("{{ " + expression + " }}").render([], {"text": "ab c", "items": [1, "x"]})


def test_sizes():
    assert chars("abc") == 4
    assert chars([]) < chars([1]) < chars([1, "abc"]) < chars({"key": [1, "abc"]})
    assert chars(10**300) > 300
    assert chars(["x" * MAX_VALUE_CHARS] * 1000) > MAX_VALUE_CHARS


@pytest.mark.parametrize(
    "expression",
    [f"text.{name}({HUGE})" for name in ("center", "expandtabs", "ljust", "rjust", "zfill")]
    + [
        f"text | center({HUGE})",
        f"text | center(width={HUGE})",
        f"text | indent({HUGE})",
        "text | wordwrap(1, wrapstring='x' * 9999999)",
        f"items | tojson(indent={HUGE})",
        f"items | batch({HUGE}, 'x') | list",
        f"items | slice({HUGE}) | list",
        f"'%0{HUGE}d' % 1",
        f"'%.{HUGE}f' % 1",
        f"'%*d' % ({HUGE}, 1)",
        f"'%{HUGE}s' | format('a')",
        f"'{{:>{HUGE}}}'.format('a')",
        f"'{{:>{{}}}}'.format('a', {HUGE})",
        f"'{{a:>{HUGE}}}'.format_map({{'a': 1}})",
        "('x' * 9999999).join(items * 9)",
        "items * 9 | join('x' * 9999999)",
        "('x' * 99999).replace('x', 'y' * 99999)",
        "('x' * 99999).translate({120: 'y' * 99999})",
        "[['x' * 9999999] * 2]",
        "10 ** 99999",
    ],
)
def test_huge_values_are_refused(expression):
    with pytest.raises(RequestError, match=r"too large|width among"):
        render(expression)


@pytest.mark.parametrize(
    ("expression", "text"),
    [
        ("text ~ 5 ~ none ~ nothing ~ items", "ab c5None[1, 'x']"),
        ("text + text", "ab cab c"),
        ("3 + 4 * 5 % 6 ** 2", "23"),
        ("text * 2", "ab cab c"),
        ("'%5.2f|%-4s|%d%%' % (1.5, text, 20240101)", " 1.50|ab c|20240101%"),
        ("'in 20240101: {:>6}, {a}'.format(text, a=5)", "in 20240101:   ab c, 5"),
        ("'%s %s' | format(text, 99999999)", "ab c 99999999"),
        ("text | center(8)", "  ab c  "),
        ("text.ljust(6) ~ '|'", "ab c  |"),
        ("text.replace('b', 'bb')", "abb c"),
        ("', '.join(['a', 'b'])", "a, b"),
        ("['a', 'b'] | join(', ')", "a, b"),
        ("items | tojson(indent=1)", '[\n 1,\n "x"\n]'),
        ("items | map('string') | list", "['1', 'x']"),
        ("items | batch(1) | list", "[[1], ['x']]"),
        ("99999999 | default(1)", "99999999"),
        ("text | replace(' ', '_') | upper | trim", "AB_C"),
        ("(text | length) // 3 + 2 ** 10", "1025"),
        ("[3, 1, 2] | sort | first", "1"),
    ],
)
def test_ordinary_values_are_what_jinja_makes_of_them(expression, text):
    assert render(expression) == text

"""Templates render to the same text every time, and demand every name."""

from __future__ import annotations

import pytest
from jinja2 import UndefinedError

from graphopt.codegen.render import one_line, render

_NAMES = {
    "title": "add of model",
    "pointers": ["const float* const x = (const float*)a[0];"],
    "scratch": False,
    "count": "step.T",
    "row": "t",
    "lines": ["y[t] = x[t];"],
}


def test_text() -> None:
    text = render("cpp/rows.jinja", **_NAMES)
    assert text == render("cpp/rows.jinja", **_NAMES)
    assert text.startswith("// add of model")
    assert "    y[t] = x[t];\n  }\n}\n" in text


def test_every_name_is_needed() -> None:
    with pytest.raises(UndefinedError):
        render("cpp/rows.jinja", **{key: _NAMES[key] for key in _NAMES if key != "count"})


@pytest.mark.parametrize(
    "name", ["a*/b", "a\nint x;", "a\\", "a\\ \r\n", "\x85\u2028\0", "\udc80", "ü²"]
)
def test_a_comment_stays_one_line(name: str) -> None:
    text = render("cpp/rows.jinja", **{**_NAMES, "title": name})
    plain = render("cpp/rows.jinja", **{**_NAMES, "title": "plain"})
    assert text.splitlines()[1:] == plain.splitlines()[1:]
    assert not one_line(name).endswith("\\")
    text.encode()

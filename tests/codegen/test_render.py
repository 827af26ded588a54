"""Templates render to the same text every time, and demand every name."""

from __future__ import annotations

import pytest
from jinja2 import UndefinedError

from graphopt.codegen.render import render

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

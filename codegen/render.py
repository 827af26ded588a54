"""Rendering of kernel templates: undefined names are errors, and the text is deterministic."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

TEMPLATES = Path(__file__).parent / "templates"


def one_line(text: str) -> str:
    """``text`` as it can stand in a comment that ends with its line, whatever a model is called.

    A backslash at the end of a line would take the next line into the comment.
    """
    spaced = " ".join(text.split()).replace("\\", "/")
    return "".join(letter if letter.isprintable() else "?" for letter in spaced)


def render(template: str, **names: object) -> str:
    """The text of ``template``, a path below ``codegen/templates``.

    Raises:
        jinja2.UndefinedError: the template uses a name that is not given.
    """
    return _environment().get_template(template).render(**names)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # what is rendered is source code
    )
    environment.filters["line"] = one_line
    return environment

"""Rendering of kernel templates: undefined names are errors, and the text is deterministic."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

TEMPLATES = Path(__file__).parent / "templates"


def render(template: str, **names: object) -> str:
    """The text of ``template``, a path below ``codegen/templates``.

    Raises:
        jinja2.UndefinedError: the template uses a name that is not given.
    """
    return _environment().get_template(template).render(**names)


@cache
def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(TEMPLATES),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # what is rendered is source code
    )

"""The page: one HTML file that needs nothing else, neither a network nor a server.

Everything that comes from a model reaches the page as JSON in a block that the browser does not
run, with every ``<``, ``>`` and ``&`` escaped, and from there as text nodes alone. A content
security policy lets the browser run and style by the two blocks written here and nothing else.
"""

from __future__ import annotations

import base64
import hashlib
import json
from importlib.resources import files

import jinja2
from markupsafe import Markup

from .document import document
from .source import ReportSource

SCRIPTS = (
    "elements", "sizes", "dom", "names", "graph", "details", "tables", "memory", "views", "main",
)  # fmt: skip
# In JSON these stand in strings only, where an escape means the same.
_ESCAPES = str.maketrans({c: f"\\u{ord(c):04x}" for c in "<>&"})


def report_page(source: ReportSource) -> str:
    """The page for a compiled model."""
    style = _read("report.css")
    script = _script()
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    return environment.from_string(_read("report.html")).render(
        title=source.model.name.encode("utf-8", "replace").decode(),
        style=Markup(style),
        script=Markup(script),
        style_hash=_hash(style),
        script_hash=_hash(script),
        data=Markup(embedded(document(source))),
    )


def embedded(data: object) -> str:
    """JSON that can stand in a script block: nothing in it ends the block or begins a tag."""
    text = json.dumps(data, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    return text.translate(_ESCAPES)


def _script() -> str:
    parts = (_read(f"{name}.js") for name in SCRIPTS)
    return '"use strict";\n(() => {\n' + "\n".join(parts) + "\n})();\n"


def _read(name: str) -> str:
    return (files("graphopt.report") / "page" / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"

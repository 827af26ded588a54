"""The functions that generated kernels call: each kernel's file holds those that it needs."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache

from ..render import render

_START = "@triton.jit\ndef "


def functions_for(text: str) -> str:
    """Definitions of all functions that ``text`` calls, and of those that they call."""
    known = _functions()
    found: dict[str, None] = {}
    waiting = _called(text, known)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found[name] = None
            waiting += _called(known[name], known)
    return "".join(f"{known[name]}\n\n\n" for name in known if name in found)


def _called(text: str, names: Iterable[str]) -> list[str]:
    words = set(re.findall(r"(?<![.\w])\w+", text))
    return [name for name in names if name in words]


@cache
def _functions() -> dict[str, str]:
    """The text of each function, by name."""
    parts = render("triton/functions.jinja").split(_START)[1:]
    return {part.split("(", 1)[0]: _START + part.strip() for part in parts}

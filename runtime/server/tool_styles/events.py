"""What a parser of tool calls gives, and what all of them share.

A call is given when it is complete, so that nothing is taken back: what looks like a call and is
none stays text. However the text is cut into pieces, the events add up to the same.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol


@dataclass(frozen=True, slots=True)
class Call:
    """A tool that is called.

    Attributes:
        name: of the function.
        arguments: a JSON object, as the model wrote it where it wrote JSON.
    """

    name: str
    arguments: str


Event = str | Call


class Parser(Protocol):
    """Reads one answer."""

    def push(self, text: str) -> list[Event]:
        """What ``text`` completes: pieces of content, and calls."""

    def finish(self) -> list[Event]:
        """What is left, now that nothing follows."""


def parse(parser: Parser, text: str) -> tuple[str, list[Call]]:
    """A whole answer's content and calls."""
    events = [*parser.push(text), *parser.finish()]
    content = "".join(one for one in events if isinstance(one, str))
    return content, [one for one in events if isinstance(one, Call)]


def call_of(text: str, arguments: Sequence[str], names: frozenset[str]) -> Call | None:
    """The call that a JSON object is; None if it is none.

    Args:
        text: the object.
        arguments: what its member with the arguments may be called.
        names: functions that can be called.
    """
    members = members_of(text)
    if members is None or "name" not in members:
        return None
    name, _ = members["name"]
    if not isinstance(name, str) or name not in names:
        return None
    for one in arguments:
        if one in members:
            value, written = members[one]
            if isinstance(value, str):  # some models write JSON within JSON
                value, written = loads(value), value
            return Call(name, written) if isinstance(value, dict) else None
    return None


def members_of(text: str) -> dict[str, tuple[Any, str]] | None:
    """The members of a JSON object with their text; None if it is no JSON object."""
    decoder = json.JSONDecoder(parse_constant=_no_constant)
    found: dict[str, tuple[Any, str]] = {}
    place = _skip(text, 0)
    if not text.startswith("{", place):
        return None
    place = _skip(text, place + 1)
    try:
        while not (not found and text.startswith("}", place)):
            key, place = decoder.raw_decode(text, place)
            place = _skip(text, place)
            if not isinstance(key, str) or not text.startswith(":", place):
                return None
            start = _skip(text, place + 1)
            value, place = decoder.raw_decode(text, start)
            found[key] = value, text[start:place]
            place = _skip(text, place)
            if not text.startswith(",", place):
                break
            place = _skip(text, place + 1)
    except (ValueError, RecursionError):
        return None
    ends = text.startswith("}", place) and _skip(text, place + 1) == len(text)
    return found if ends else None


def loads(text: str) -> Any:
    """The value of a JSON text; None if it is no JSON."""
    try:
        return json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return None


def held_back(text: str, mark: str) -> int:
    """How many characters at the end of ``text`` may be the beginning of ``mark``."""
    for size in range(min(len(text), len(mark) - 1), 0, -1):
        if text.endswith(mark[:size]):
            return size
    return 0


def _skip(text: str, place: int) -> int:
    while place < len(text) and text[place] in " \t\r\n":
        place += 1
    return place


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")

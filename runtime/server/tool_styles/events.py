"""What a parser of tool calls gives, and what all of them share.

A call begins when it is known whose it is, and its arguments follow as they are written. Nothing is
taken back: what looks like a call and is none stays text, and what has begun is a call, even if the
answer breaks off within. However the text is cut into pieces, the events add up to the same.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol


@dataclass(frozen=True, slots=True)
class Begin:
    """A call begins.

    Attributes:
        name: of the function.
    """

    name: str


@dataclass(frozen=True, slots=True)
class Arguments:
    """More of the arguments of the call that began last.

    Attributes:
        text: what follows; a JSON object in the end, as the model wrote it where it wrote JSON.
    """

    text: str


Event = str | Begin | Arguments


@dataclass(frozen=True, slots=True)
class Call:
    """A tool that is called.

    Attributes:
        name: of the function.
        arguments: all of them.
    """

    name: str
    arguments: str

    @property
    def events(self) -> list[Event]:
        """The call as events."""
        return [Begin(self.name), Arguments(self.arguments)]


class Parser(Protocol):
    """Reads one answer."""

    def push(self, text: str) -> list[Event]:
        """What ``text`` completes: pieces of content, and of calls."""

    def finish(self) -> list[Event]:
        """What is left, now that nothing follows."""


def joined(events: Iterable[Event]) -> tuple[str, list[Call]]:
    """The content and the calls that events add up to."""
    content, calls = "", list[Call]()
    for one in events:
        if isinstance(one, str):
            content += one
        elif isinstance(one, Begin):
            calls.append(Call(one.name, ""))
        else:
            calls[-1] = Call(calls[-1].name, calls[-1].arguments + one.text)
    return content, calls


def parse(parser: Parser, text: str) -> tuple[str, list[Call]]:
    """A whole answer's content and calls."""
    return joined([*parser.push(text), *parser.finish()])


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


def head_of(text: str, arguments: Sequence[str], names: frozenset[str]) -> tuple[str, int] | None:
    """Whom a JSON object calls, and where its arguments begin, before they have been written.

    Args:
        text: the object, as far as it is there.
        arguments: what its member with the arguments may be called.
        names: functions that can be called.

    Returns:
        The name and the place of the brace; None if that is not known, or never will be.
    """
    decoder = json.JSONDecoder(parse_constant=_no_constant)
    place, name = _skip(text, 0), ""
    separator = "{"
    try:
        while text.startswith(separator, place):
            key, place = decoder.raw_decode(text, _skip(text, place + 1))
            place = _skip(text, place)
            if not isinstance(key, str) or not text.startswith(":", place):
                return None
            start = _skip(text, place + 1)
            if key in arguments:
                known = name in names and text.startswith("{", start)
                return (name, start) if known else None
            value, place = decoder.raw_decode(text, start)
            if key == "name":
                name = value if isinstance(value, str) else ""
            place, separator = _skip(text, place), ","
    except (ValueError, RecursionError):
        pass
    return None


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

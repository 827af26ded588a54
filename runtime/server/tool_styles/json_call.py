"""A JSON object that may be a call, read as it is written.

    {"name": "get_weather", "arguments": {"city": "Paris"}}

Once the name and the brace of the arguments are there, it is a call, and its arguments are given on
as they come. An object that begins otherwise is kept until it is complete.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from .events import Arguments, Begin, Event, call_of, head_of

# Within so many characters the arguments have to begin, or the object is kept until it is complete.
HEAD_CHARS = 1024
CLOSED, MARKED = "closed", "marked"
_OUTSIDE, _INSIDE = re.compile(r'["{}\[\]<]'), re.compile(r'["\\]')


class Brackets:
    """How deep a place in JSON lies.

    Args:
        depth: of the place where reading begins.
        mark: ends the JSON where it stands outside of strings; begins with ``<``; empty for none.
    """

    def __init__(self, depth: int = 0, mark: str = "") -> None:
        self._depth = depth
        self._mark = mark
        self._quoted = self._escaped = False

    def read(self, text: str, place: int, floor: int | None) -> tuple[int, str | None]:
        """Read on from ``place``.

        Args:
            text: the JSON, or what is left of it.
            place: where the last reading ended.
            floor: depth at which to stop; None to go on whatever is closed.

        Returns:
            Where reading ended, and why: ``CLOSED`` behind the bracket that led to ``floor``,
            ``MARKED`` before the mark, None where the text ends, or what may become the mark
            begins.
        """
        while place < len(text):
            if self._escaped:
                self._escaped = False
                place += 1
                continue
            found = (_INSIDE if self._quoted else _OUTSIDE).search(text, place)
            if found is None:
                break
            start, place = found.span()
            character = found[0]
            if character == "<":
                there = text[start : start + len(self._mark)]
                if self._mark.startswith(there) and there:
                    return start, MARKED if there == self._mark else None
            elif character == "\\":
                self._escaped = True
            elif character == '"':
                self._quoted = not self._quoted
            elif character in "{[":
                self._depth += 1
            else:
                self._depth -= 1
                if self._depth == floor:
                    return place, CLOSED
        return len(text), None


class JsonCall:
    """One object.

    Args:
        arguments: what its member with the arguments may be called.
        names: functions that can be called.
        mark: what ends it, besides its last brace once it is a call; empty if that alone does.

    Attributes:
        text: what has been kept of it; all of it if it turned out to be no call.
        is_call: whether it is one.
        end: why it has ended, ``CLOSED`` or ``MARKED``; None while it goes on.
        rest: what stands behind it.
    """

    def __init__(self, arguments: Sequence[str], names: frozenset[str], mark: str = "") -> None:
        self.text = self.rest = ""
        self.is_call = False
        self.end: str | None = None
        self._arguments = arguments
        self._names = names
        self._mark = mark
        self._brackets = Brackets(0, mark)
        self._floor = None if mark else 0  # 1 within the arguments
        self._place = 0
        self._may_begin = True

    def push(self, text: str) -> list[Event]:
        """What ``text`` adds."""
        self.text += text
        found = self._begin() if self._may_begin else []
        if not self.is_call:
            self._place, self.end = self._brackets.read(self.text, self._place, self._floor)
            if self.end is not None:
                self.text, self.rest = self.text[: self._place], self.text[self._place :]
                found += self._whole()
        elif self.end is None:
            found += self._go_on()
        self.rest = self.rest.removeprefix(self._mark) if self.end == MARKED else self.rest
        return found

    def finish(self) -> list[Event]:
        """What is left of it, if nothing follows."""
        if not self.is_call:
            return self._whole()
        left, self.text = self.text, ""
        return [Arguments(left)] if left and self._floor == 1 else []

    def _begin(self) -> list[Event]:
        """The beginning of a call, if it is there."""
        head = head_of(self.text[:HEAD_CHARS], self._arguments, self._names)
        self._may_begin = head is None and len(self.text) < HEAD_CHARS
        if head is None:
            return []
        name, start = head
        self.is_call, self.text = True, self.text[start:]
        self._brackets, self._floor = Brackets(1, self._mark), 1
        return [Begin(name)]

    def _whole(self) -> list[Event]:
        """The call that the object is as a whole, if it is one."""
        call = call_of(self.text, self._arguments, self._names)
        self.is_call = call is not None
        return [] if call is None else call.events

    def _go_on(self) -> list[Event]:
        """More arguments; what stands in the object behind them is nothing."""
        found: list[Event] = []
        place, end = self._brackets.read(self.text, 0, self._floor)
        if self._floor == 1:
            found += [Arguments(self.text[:place])] if place else []
            if end == CLOSED:
                self._floor = 0
                place, end = self._brackets.read(self.text, place, 0)
        self.text, self.end = self.text[place:], end
        if end is not None:
            self.text, self.rest = "", self.text
        return found

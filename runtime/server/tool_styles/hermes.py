"""Calls as Hermes and Qwen write them: JSON between tags, anywhere in the text.

<tool_call>
{"name": "get_weather", "arguments": {"city": "Paris"}}
</tool_call>
"""

from __future__ import annotations

from .events import Event, call_of, held_back

BEGIN, END = "<tool_call>", "</tool_call>"
_SPACE = " \t\r\n"


class HermesParser:
    """Reads one answer.

    Args:
        names: functions that can be called.
    """

    def __init__(self, names: frozenset[str]) -> None:
        self._names = names
        self._text = ""  # not given yet: outside of tags, or after an open one
        self._inside = False
        self._after_call = False
        self._searched = 0  # how much of what is inside holds no end

    def push(self, text: str) -> list[Event]:
        """What ``text`` completes."""
        self._text += text
        found: list[Event] = []
        while self._take_call(found) if self._inside else self._take_content(found):
            pass
        return found

    def finish(self) -> list[Event]:
        """What is left; an open call that is complete counts as one."""
        found: list[Event] = []
        if self._inside:
            self._close(found, self._text, "")
        elif self._text.strip(_SPACE) or not self._after_call:
            found.append(self._text)
        self._text = ""
        return [one for one in found if one != ""]

    def _take_content(self, found: list[Event]) -> bool:
        """Give what comes before the next call; whether one begins."""
        if self._after_call:
            self._text = self._text.lstrip(_SPACE)
        place = self._text.find(BEGIN)
        if place >= 0:
            content = self._text[:place].rstrip(_SPACE)
            self._text, self._inside, self._searched = self._text[place + len(BEGIN) :], True, 0
        else:
            sure = len(self._text) - held_back(self._text, BEGIN)
            content = self._text[:sure].rstrip(_SPACE)  # space before a call is none of the text
            self._text = self._text[len(content) :]
        if content:
            self._after_call = False
            found.append(content)
        return place >= 0

    def _take_call(self, found: list[Event]) -> bool:
        """Give the call if its end is there; whether it is."""
        place = self._text.find(END, self._searched)
        if place < 0:
            self._searched = max(0, len(self._text) - len(END) + 1)
            return False
        body, rest = self._text[:place], self._text[place + len(END) :]
        if _in_string(body):
            self._searched = place + 1
            return True
        self._close(found, body, END)
        self._text, self._inside = rest, False
        return True

    def _close(self, found: list[Event], body: str, end: str) -> None:
        """Take what is inside for a call, or for text if it is none."""
        call = call_of(body, ("arguments", "parameters"), self._names)
        self._after_call = call is not None
        found.append(call or BEGIN + body + end)


def _in_string(text: str) -> bool:
    """Whether JSON breaks off within a string."""
    inside = escaped = False
    for character in text:
        if escaped:
            escaped = False
        elif character == "\\":
            escaped = inside
        elif character == '"':
            inside = not inside
    return inside

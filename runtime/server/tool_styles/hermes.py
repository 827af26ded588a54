"""Calls as Hermes and Qwen write them: JSON between tags, anywhere in the text.

<tool_call>
{"name": "get_weather", "arguments": {"city": "Paris"}}
</tool_call>
"""

from __future__ import annotations

from .events import Event, held_back
from .json_call import MARKED, JsonCall

BEGIN, END = "<tool_call>", "</tool_call>"
_SPACE = " \t\r\n"


class HermesParser:
    """Reads one answer.

    Args:
        names: functions that can be called.
    """

    def __init__(self, names: frozenset[str]) -> None:
        self._names = names
        self._text = ""  # outside of tags, and not given yet
        self._call: JsonCall | None = None  # behind an open tag
        self._after_call = False
        self._may_end = False  # whether the tag that ends the last call is still to come

    def push(self, text: str) -> list[Event]:
        """What ``text`` completes."""
        self._text += text
        found: list[Event] = []
        goes_on = True
        while goes_on:
            call = self._call
            goes_on = self._take_content(found) if call is None else self._take_call(call, found)
        return found

    def finish(self) -> list[Event]:
        """What is left; an open call that is complete counts as one."""
        found: list[Event] = []
        if self._call is not None:
            found += self._call.finish()
            if not self._call.is_call:
                found.append(BEGIN + self._call.text)
        elif not (self._after_call and self._is_nothing(self._text.strip(_SPACE))):
            found.append(self._text)
        self._text, self._call = "", None
        return [one for one in found if one != ""]

    def _is_nothing(self, text: str) -> bool:
        return text == "" or (self._may_end and END.startswith(text))

    def _take_content(self, found: list[Event]) -> bool:
        """Give what comes before the next call; whether one begins."""
        if self._after_call:
            self._text = self._text.lstrip(_SPACE)
        if self._may_end and self._text:
            if len(self._text) < len(END) and END.startswith(self._text):
                return False
            self._may_end = False
            if self._text.startswith(END):
                self._text = self._text[len(END) :]
                return True
        place = self._text.find(BEGIN)
        if place >= 0:
            content = self._text[:place].rstrip(_SPACE)
            self._text = self._text[place + len(BEGIN) :]
            self._call = JsonCall(("arguments", "parameters"), self._names, END)
        else:
            sure = len(self._text) - held_back(self._text, BEGIN)
            content = self._text[:sure].rstrip(_SPACE)  # space before a call is none of the text
            self._text = self._text[len(content) :]
        if content:
            self._after_call = False
            found.append(content)
        return place >= 0

    def _take_call(self, call: JsonCall, found: list[Event]) -> bool:
        """Give what is there of the call; whether it ends."""
        found += call.push(self._text)
        self._text = ""
        if call.end is None:
            return False
        if not call.is_call:
            found.append(BEGIN + call.text + END)
        self._after_call = call.is_call
        self._may_end = call.end != MARKED
        self._text, self._call = call.rest, None
        return True

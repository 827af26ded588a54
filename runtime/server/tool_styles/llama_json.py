"""Calls as Llama 3 writes them: the answer is JSON objects and nothing else.

    <|python_tag|>{"name": "get_weather", "parameters": {"city": "Paris"}}; {...}

The tag may be missing. What does not begin so is text, and so is what follows the last call.
"""

from __future__ import annotations

from .events import Event
from .json_call import JsonCall

TAG = "<|python_tag|>"
_SPACE = " \t\r\n"
_BETWEEN = _SPACE + ";,"


class LlamaJsonParser:
    """Reads one answer.

    Args:
        names: functions that can be called.
    """

    def __init__(self, names: frozenset[str]) -> None:
        self._names = names
        self._text = ""
        self._head = ""  # what stood before the first object
        self._call: JsonCall | None = None
        self._calls = 0
        self._is_content = False

    def push(self, text: str) -> list[Event]:
        """What ``text`` completes."""
        if self._is_content:
            return [text] if text else []
        self._text += text
        found: list[Event] = []
        while self._take(found):
            pass
        return found + self.finish() if self._is_content else found

    def finish(self) -> list[Event]:
        """What is left is text, but for a call that has begun."""
        found: list[Event] = []
        left = self._text
        if self._call is not None:
            found += self._call.finish()
            left = "" if self._call.is_call else self._call.text + self._call.rest
        left, self._head, self._text, self._call = self._head + left, "", "", None
        return [*found, left] if left else found

    def _take(self, found: list[Event]) -> bool:
        """Give what is there of the next object; whether there may be one more."""
        if self._call is None:
            if not self._at_object():
                return False
            self._call = JsonCall(("parameters", "arguments"), self._names)
        call = self._call
        found += call.push(self._text)
        self._text = ""
        if call.is_call:
            self._head = ""
        if call.end is None:
            return False
        self._is_content = not call.is_call
        if self._is_content:
            return False
        self._text, self._call = call.rest, None
        self._calls += 1
        return True

    def _at_object(self) -> bool:
        """Pass over what stands before an object; whether one begins. Gives up if none does."""
        rest = self._text.lstrip(_BETWEEN if self._calls else _SPACE)
        if self._calls:
            self._text = rest  # what stands between calls is nothing
        if not self._calls and not self._head and rest.startswith(TAG):
            self._head = self._text[: len(self._text) - len(rest)] + TAG
            self._text = rest[len(TAG) :]
            return self._at_object()
        if rest.startswith("{"):
            self._head += self._text[: len(self._text) - len(rest)]
            self._text = rest
            return True
        may_be_tag = not self._calls and not self._head and TAG.startswith(rest)
        self._is_content = rest != "" and not may_be_tag
        return False

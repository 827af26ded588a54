"""Calls as Llama 3 writes them: the answer is JSON objects and nothing else.

    <|python_tag|>{"name": "get_weather", "parameters": {"city": "Paris"}}; {...}

The tag may be missing. What does not begin so is text, and so is what follows the last call.
"""

from __future__ import annotations

from .events import Event, call_of

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
        self._calls = 0
        self._is_content = False
        self._reset()

    def _reset(self) -> None:
        self._place = self._depth = 0
        self._quoted = self._escaped = False

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
        """What is left is text."""
        left, self._head, self._text = self._head + self._text, "", ""
        return [left] if left else []

    def _take(self, found: list[Event]) -> bool:
        """Give the next object if it is complete; whether there may be one more."""
        if self._depth == 0 and not self._at_object():
            return False
        end = self._end()
        if end is None:
            return False
        call = call_of(self._text[:end], ("parameters", "arguments"), self._names)
        if call is None:
            self._is_content = True
            return False
        found.append(call)
        self._calls += 1
        self._head, self._text = "", self._text[end:]
        self._reset()
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

    def _end(self) -> int | None:
        """Where the object at the beginning ends; None if it does not yet."""
        for place in range(self._place, len(self._text)):
            character = self._text[place]
            if self._escaped:
                self._escaped = False
            elif self._quoted:
                self._escaped = character == "\\"
                self._quoted = character != '"'
            elif character == '"':
                self._quoted = True
            elif character in "{[":
                self._depth += 1
            elif character in "}]":
                self._depth -= 1
                if self._depth == 0:
                    return place + 1
        self._place = len(self._text)
        return None

"""Conversations as clients send them, and as chat templates take them."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import FailFast, Field
from typing_extensions import TypeAliasType

from .common import MAX_ITEMS, Body

ROLES = ("system", "developer", "user", "assistant", "tool")
_TEXT_PARTS = ("text", "input_text", "output_text")


class ContentPart(Body):
    """One part of a message; those of text are taken."""

    type: str
    text: str | None = None


Parts = TypeAliasType(
    "Parts", Annotated[list[ContentPart], FailFast(), Field(max_length=MAX_ITEMS)]
)


class FunctionCall(Body):
    """What the assistant called."""

    name: str
    arguments: str


class ToolCall(Body):
    """One call of a message of the assistant."""

    id: str | None = None
    type: Literal["function"] = "function"
    function: FunctionCall


ToolCalls = TypeAliasType(
    "ToolCalls", Annotated[list[ToolCall], FailFast(), Field(max_length=MAX_ITEMS)]
)


class Message(Body):
    """One message of a conversation; what else it holds, the chat template sees."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | Parts | None = None
    name: str | None = None
    tool_calls: ToolCalls | None = None
    tool_call_id: str | None = None

    def plain(self) -> dict[str, Any]:
        """The message for a template.

        Raises:
            ValueError: it has a part that is no text.
        """
        found = dict(self.model_extra or {})
        # Templates know no developers: what they say has a system message's weight.
        found["role"] = "system" if self.role == "developer" else self.role
        found["content"] = self.text()
        for name in ("name", "tool_call_id"):
            if getattr(self, name) is not None:
                found[name] = getattr(self, name)
        if self.tool_calls is not None:
            found["tool_calls"] = [_call(one) for one in self.tool_calls]
        return found

    def text(self) -> str:
        """The content as one text; parts are joined by line ends.

        Raises:
            ValueError: it has a part that is no text.
        """
        if not isinstance(self.content, list):
            return self.content or ""
        for part in self.content:
            if part.type not in _TEXT_PARTS or part.text is None:
                raise ValueError(f"a part of type {part.type[:40]!r}; the model reads text alone")
        return "\n".join(part.text or "" for part in self.content)


Conversation = TypeAliasType(
    "Conversation", Annotated[list[Message], FailFast(), Field(max_length=MAX_ITEMS)]
)


def _call(call: ToolCall) -> dict[str, Any]:
    """A call for a template, which wants arguments as an object."""
    arguments: Any = call.function.arguments
    try:
        parsed = json.loads(arguments)
    except (ValueError, RecursionError):
        parsed = None
    if isinstance(parsed, dict):
        arguments = parsed
    function = {"name": call.function.name, "arguments": arguments}
    return {"id": call.id, "type": "function", "function": function}

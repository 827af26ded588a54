"""The input of ``/v1/responses`` as a conversation, and its tools as a chat's."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from .http_errors import refuse, unsupported
from .protocol.messages import FunctionCall, Message, ToolCall
from .protocol.responses import InputItem, ResponsesRequest
from .tool_calls import Offer

CALL, OUTPUT = "function_call", "function_call_output"


def messages_of(body: ResponsesRequest) -> list[Message]:
    """The input as messages; calls go to the message of the assistant that they follow.

    Raises:
        ApiError: an item is not supported, or lacks a field; it is named.
    """
    found = []
    if body.instructions is not None:
        found.append(Message(role="system", content=body.instructions))
    if isinstance(body.input, str):
        return [*found, Message(role="user", content=body.input)]
    for place, item in enumerate(body.input):
        where = f"input.{place}"
        if item.type == CALL:
            _demand(item, where, "call_id", "name", "arguments")
            if not found or found[-1].role != "assistant":
                found.append(Message(role="assistant", tool_calls=[]))
            function = FunctionCall(name=item.name or "", arguments=item.arguments or "")
            call = ToolCall(id=item.call_id, function=function)
            found[-1].tool_calls = [*(found[-1].tool_calls or ()), call]
        elif item.type == OUTPUT:
            _demand(item, where, "call_id", "output")
            found.append(Message(role="tool", tool_call_id=item.call_id, content=item.output))
        elif item.type in (None, "message"):
            found.append(_message(where, item))
        else:
            raise unsupported(f"{where}.type", f"it is message, {CALL} or {OUTPUT}")
    return found


def _demand(item: InputItem, where: str, *names: str) -> None:
    for name in names:
        if getattr(item, name) is None:
            raise refuse(f"{where}.{name} is missing", f"{where}.{name}")


def _message(where: str, item: InputItem) -> Message:
    try:
        return Message(role=item.role, content=item.content)  # type: ignore[arg-type]
    except ValidationError as error:
        raise unsupported(
            f"{where}.role", "roles are system, developer, user, assistant"
        ) from error


def offer_of(body: ResponsesRequest) -> Offer:
    """The tools of a request in the form that chats have.

    Raises:
        ApiError: one is no function, or the choice is none that there is.
    """
    tools = []
    for number, tool in enumerate(body.tools or ()):
        if tool.get("type") != "function":
            raise unsupported("tools", f"tools.{number} is no function")
        names = ("name", "description", "parameters", "strict")
        function = {name: tool[name] for name in names if tool.get(name) is not None}
        tools.append({"type": "function", "function": function})
    choice: Any = body.tool_choice
    if isinstance(choice, dict):
        if choice.get("type") != "function":
            raise unsupported("tool_choice", "it is none, auto, required, or a function by name")
        choice = {"type": "function", "function": {"name": choice.get("name")}}
    return Offer(tools, choice, one_call=body.parallel_tool_calls is False)

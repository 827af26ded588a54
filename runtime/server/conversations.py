"""Conversations to token ids, for every route that takes messages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from .http_errors import refuse, unsupported
from .prompt_ids import PromptIds, checked
from .protocol.messages import Message
from .sampling import at_most
from .service import Service


async def conversation_ids(
    service: Service,
    messages: Sequence[Message],
    *,
    tools: Sequence[Mapping[str, Any]] | None = None,
    add_generation_prompt: bool | None = None,
    continue_final_message: bool | None = None,
    variables: Mapping[str, Any] | None = None,
    add_special_tokens: bool = False,
) -> PromptIds:
    """The prompt that the chat template makes of messages.

    Args:
        service: the server.
        messages: the conversation.
        tools: what the model may call.
        add_generation_prompt: whether the prompt ends where an answer starts; None if so unless
            the final message is to be continued.
        continue_final_message: whether it ends with the last message, left open.
        variables: what else the template knows.
        add_special_tokens: whether the tokenizer adds its own; templates usually hold them.

    Raises:
        ApiError: options contradict one another, a message has more than text, or a limit is
            exceeded.
        RequestError: there is no chat template, or it refuses the messages.
        CapacityError: the conversation is longer than the model's context.
    """
    if add_generation_prompt and continue_final_message:
        raise refuse(
            "add_generation_prompt and continue_final_message exclude each other",
            "continue_final_message",
        )
    named = dict(variables or {})
    for name in ("messages", "tools", "add_generation_prompt"):
        if name in named:
            raise refuse(f"chat_template_kwargs may not hold {name}", "chat_template_kwargs")
    if tools is not None:
        size = len(msgspec.json.encode(tools))
        at_most("tools", size, service.settings.limits.max_tools_bytes, "bytes")
    text = await service.reader.conversation(
        [_plain(number, one) for number, one in enumerate(messages)],
        tools=tools,
        add_generation_prompt=(
            not continue_final_message if add_generation_prompt is None else add_generation_prompt
        ),
        continue_final_message=continue_final_message is True,
        variables=named,
    )
    model = service.opened()
    ids = await service.reader.encode(text, model, add_special_tokens)
    return PromptIds(checked(ids, model), text)


def _plain(number: int, message: Message) -> dict[str, Any]:
    try:
        return message.plain()
    except ValueError as error:
        raise unsupported(f"messages.{number}.content", str(error)) from error

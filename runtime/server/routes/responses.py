"""``POST /v1/responses``: OpenAI's newer form, for plain text."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from pydantic import ValidationError
from starlette.responses import Response

from .. import answering
from ..constraints import of_format
from ..conversations import conversation_ids
from ..http_errors import unsupported
from ..json_body import BoundedRoute
from ..protocol.common import SamplingFields
from ..protocol.messages import Message
from ..protocol.responses import InputItem, ResponseObject, ResponsesRequest
from ..response_events import ResponseEvents, status_of
from ..sampling import sampling_params
from ..service import Service
from .documented import generated

_REFUSED = {
    "tools": "the model's calls are not understood here",
    "previous_response_id": "answers are not kept; send the whole conversation",
    "conversation": "conversations are not kept; send all of it",
    "background": "answers are not kept",
    "include": "there is nothing more to include",
    "prompt": "prompts are not kept",
    "top_logprobs": "use /v1/chat/completions",
    "max_tool_calls": "there are no tools",
}


def router(service: Service) -> APIRouter:
    """The route of ``service``."""
    routes = APIRouter(route_class=BoundedRoute)

    @routes.post("/v1/responses", **generated(ResponseObject), tags=["OpenAI"])
    async def create_response(request: Request, body: ResponsesRequest) -> Response:
        """Answer an input; nothing of it is kept."""
        return await _answer(service, request, body)

    return routes


async def _answer(service: Service, request: Request, body: ResponsesRequest) -> Response:
    name = service.name(body.model)
    service.generator()
    _refuse(body)
    fields = SamplingFields(
        temperature=body.temperature,
        top_p=body.top_p,
        priority=body.priority,
        cache_salt=body.cache_salt,
    )
    given: dict[str, Any] = {}
    if body.max_output_tokens is not None:
        given["max_tokens"] = body.max_output_tokens
    elif not (service.words.defaults or {}).get("max_new_tokens"):
        given["max_tokens"] = None  # as many as the context holds
    if body.text is not None and body.text.format is not None:
        given["constraint"] = of_format(body.text.format, "text.format")
    params = sampling_params(fields, service.words, service.settings.limits, **given)
    await service.grammars.check(params.language)
    prompt = await conversation_ids(service, _messages(body))
    asked = answering.ask(service, request, "resp", [prompt], params, fields)
    events = ResponseEvents(asked, body, name)
    if body.stream:
        return await answering.stream(service, request, asked, events, body)
    ((sample,),) = await answering.gather(request, asked)
    return answering.reply(request, body, events.whole(status_of(sample), sample))


def _refuse(body: ResponsesRequest) -> None:
    """Refuse what is not about text.

    Raises:
        ApiError: a field is not supported; it is named.
    """
    for name, why in _REFUSED.items():
        if getattr(body, name):
            raise unsupported(name, why)
    if body.tool_choice not in (None, "none", "auto"):
        raise unsupported("tool_choice", "there are no tools")
    if body.reasoning is not None and any(value is not None for value in body.reasoning.values()):
        raise unsupported("reasoning", "the model is asked without")


def _messages(body: ResponsesRequest) -> list[Message]:
    """The input as a conversation."""
    found = []
    if body.instructions is not None:
        found.append(Message(role="system", content=body.instructions))
    if isinstance(body.input, str):
        return [*found, Message(role="user", content=body.input)]
    return [*found, *(_message(place, item) for place, item in enumerate(body.input))]


def _message(place: int, item: InputItem) -> Message:
    if item.type not in (None, "message"):
        raise unsupported(f"input.{place}.type", "only messages are")
    try:
        return Message(role=item.role, content=item.content)  # type: ignore[arg-type]
    except ValidationError as error:
        raise unsupported(
            f"input.{place}.role", "roles are system, developer, user, assistant"
        ) from error

"""``POST /v1/responses``: OpenAI's newer form, for text and for calls of functions."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from ...sampling_params import SamplingParams
from .. import answering
from ..answering import Sample
from ..constraints import of_format
from ..conversations import conversation_ids
from ..http_errors import refuse, unsupported
from ..json_body import BoundedRoute
from ..protocol.common import SamplingFields
from ..protocol.responses import ResponseObject, ResponsesRequest
from ..response_events import LOGPROBS, ResponseEvents
from ..response_input import messages_of, offer_of
from ..sampling import at_most, sampling_params
from ..service import Service
from ..text_stream import Piece
from ..tool_calls import Tools, tools_of
from .documented import generated

_REFUSED = {
    "previous_response_id": "answers are not kept; send the whole conversation",
    "conversation": "conversations are not kept; send all of it",
    "background": "answers are not kept",
    "prompt": "prompts are not kept",
    "max_tool_calls": "the model's calls are yours to make, and to count",
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
    tools = tools_of(offer_of(body), service.tool_style)
    params = _params(service, body, fields, tools)
    await service.grammars.check(params.language)
    prompt = await conversation_ids(
        service, messages_of(body), tools=None if tools is None else tools.offered
    )
    asked = answering.ask(service, request, "resp", [prompt], params, fields)
    events = ResponseEvents(asked, body, name, service.texts, tools)
    if body.stream:
        return await answering.stream(service, request, asked, events, body)
    ((sample,),) = await answering.gather(request, asked)
    events.begin()
    events.pieces([_piece(sample)])
    events.end()
    return answering.reply(request, body, events.answer())


def _piece(sample: Sample) -> Piece:
    """A whole sample as a stream's only piece."""
    return Piece(
        0,
        0,
        sample.text,
        tuple(sample.token_ids),
        sample.offsets,
        tuple(sample.logprobs),
        sample.finish_reason,
        sample.stop_reason,
    )


def _params(
    service: Service, body: ResponsesRequest, fields: SamplingFields, tools: Tools | None
) -> SamplingParams:
    """How to sample.

    Raises:
        ApiError: fields that contradict one another, or a limit is exceeded.
    """
    limits = service.settings.limits
    given: dict[str, Any] = {} if tools is None else tools.params(service.words.tokenizer)
    if body.max_output_tokens is not None:
        given["max_tokens"] = body.max_output_tokens
    elif not (service.words.defaults or {}).get("max_new_tokens"):
        given["max_tokens"] = None  # as many as the context holds
    if body.text is not None and body.text.format is not None:
        constraint = of_format(body.text.format, "text.format")
        if constraint is not None and tools is not None:
            raise refuse(
                "tools and text.format exclude each other; set tool_choice to none", "text.format"
            )
        if constraint is not None:
            given["constraint"] = constraint
    at_most("top_logprobs", body.top_logprobs or 0, limits.max_logprobs)
    if LOGPROBS in (body.include or ()):
        given["logprobs"] = body.top_logprobs or 0
    elif body.top_logprobs:
        raise refuse(f"top_logprobs needs include to hold {LOGPROBS}", "top_logprobs")
    return sampling_params(fields, service.words, limits, **given)


def _refuse(body: ResponsesRequest) -> None:
    """Refuse what is not about text and functions.

    Raises:
        ApiError: a field is not supported; it is named.
    """
    for name, why in _REFUSED.items():
        if getattr(body, name):
            raise unsupported(name, why)
    if any(one != LOGPROBS for one in body.include or ()):
        raise unsupported("include", f"there is nothing but {LOGPROBS} to include")
    if body.reasoning is not None and any(value is not None for value in body.reasoning.values()):
        raise unsupported("reasoning", "the model is asked without")

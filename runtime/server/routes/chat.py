"""``POST /v1/chat/completions``: conversations answered."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from ...sampling_params import SamplingParams
from .. import answering, logprob_rows
from ..answering import Sample
from ..chat_chunks import ChatChunks
from ..conversations import conversation_ids
from ..http_errors import refuse, unsupported
from ..json_body import BoundedRoute
from ..protocol.chat import ChatChunk, ChatCompletion, ChatRequest
from ..sampling import at_most, sampling_params
from ..service import Service
from .documented import generated

_REFUSED = {
    "chat_template": "the checkpoint's own is used; requests bring none",
    "functions": "use tools",
    "function_call": "use tool_choice",
    "audio": "the model speaks text alone",
    "web_search_options": "the server fetches nothing",
}


def router(service: Service) -> APIRouter:
    """The route of ``service``."""
    routes = APIRouter(route_class=BoundedRoute)

    @routes.post("/v1/chat/completions", **generated(ChatCompletion, ChatChunk), tags=["OpenAI"])
    async def create_chat_completion(request: Request, body: ChatRequest) -> Response:
        """Answer a conversation."""
        return await _answer(service, request, body)

    return routes


async def _answer(service: Service, request: Request, body: ChatRequest) -> Response:
    name = service.name(body.model)
    service.opened()
    params = _params(service, body)
    prompt = await conversation_ids(
        service,
        body.messages,
        tools=body.tools or None,
        add_generation_prompt=body.add_generation_prompt,
        continue_final_message=body.continue_final_message,
        variables=body.chat_template_kwargs,
    )
    asked = answering.ask(service, request, "chatcmpl", [prompt], params, body)
    if body.stream:
        writer = ChatChunks(asked, body, name, service.texts)
        return await answering.stream(service, request, asked, writer, body)
    (samples,) = await answering.gather(request, asked)
    rows = asked.prompt_logprobs(0)
    answer = ChatCompletion(
        id=asked.id,
        created=answering.now(),
        model=name,
        choices=[_choice(service, body, index, one) for index, one in enumerate(samples)],  # type: ignore[misc]
        usage=answering.usage(asked),
        prompt_logprobs=None if rows is None else logprob_rows.of_prompt(rows, service.texts),  # type: ignore[arg-type]
        prompt_token_ids=prompt.ids if body.return_token_ids else None,
    )
    return answering.reply(request, body, answer)


def _params(service: Service, body: ChatRequest) -> SamplingParams:
    """How to sample.

    Raises:
        ApiError: fields that are not supported, or contradict one another.
    """
    limits = service.settings.limits
    for field, why in _REFUSED.items():
        if getattr(body, field) is not None:
            raise unsupported(field, why)
    if body.modalities is not None and body.modalities != ["text"]:
        raise unsupported("modalities", "the model speaks text alone")
    if body.tools:
        raise unsupported("tools", "the model's calls are not understood")
    if body.stream and body.prompt_logprobs is not None:
        raise refuse("prompt_logprobs cannot be streamed", "prompt_logprobs")
    at_most("top_logprobs", body.top_logprobs or 0, limits.max_logprobs)
    if body.top_logprobs and not body.logprobs:
        raise refuse("top_logprobs needs logprobs to be true", "top_logprobs")
    given: dict[str, Any] = {}
    if body.logprobs:
        given["logprobs"] = body.top_logprobs or 0
    if body.max_completion_tokens is not None:
        given["max_tokens"] = body.max_completion_tokens
    elif body.max_tokens is None and not (service.words.defaults or {}).get("max_new_tokens"):
        given["max_tokens"] = None  # as many as the context holds
    return sampling_params(body, service.words, limits, **given)


def _choice(service: Service, body: ChatRequest, index: int, sample: Sample) -> dict[str, Any]:
    """What is said of one sample."""
    logprobs = None
    if body.logprobs:
        as_ids = body.return_tokens_as_token_ids is True
        rows = logprob_rows.chat(sample.logprobs, body.top_logprobs or 0, service.texts, as_ids)
        logprobs = {"content": rows}
    return {
        "index": index,
        "message": {"content": sample.text},
        "logprobs": logprobs,
        "finish_reason": sample.finish_reason,
        "stop_reason": sample.stop_reason,
        "token_ids": sample.token_ids if body.return_token_ids else None,
    }

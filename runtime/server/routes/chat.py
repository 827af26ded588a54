"""``POST /v1/chat/completions``: conversations answered."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from ...sampling_params import SamplingParams
from .. import answering, logprob_rows
from ..answering import Sample
from ..chat_chunks import ChatChunks
from ..constraints import CONSTRAINTS
from ..conversations import conversation_ids
from ..http_errors import refuse, unsupported
from ..json_body import BoundedRoute
from ..protocol.chat import ChatChunk, ChatCompletion, ChatRequest
from ..sampling import at_most, sampling_params
from ..service import Service
from ..tool_calls import Offer, Tools, tools_of
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
    service.generator()
    offer = Offer(body.tools or [], body.tool_choice, body.parallel_tool_calls is False)
    tools = tools_of(offer, service.tool_style)
    params = _params(service, body, tools)
    await service.grammars.check(params.language)
    prompt = await conversation_ids(
        service,
        body.messages,
        tools=None if tools is None else tools.offered,
        add_generation_prompt=body.add_generation_prompt,
        continue_final_message=body.continue_final_message,
        variables=body.chat_template_kwargs,
    )
    asked = answering.ask(service, request, "chatcmpl", [prompt], params, body)
    if body.stream:
        writer = ChatChunks(asked, body, name, service.texts, tools)
        return await answering.stream(service, request, asked, writer, body)
    (samples,) = await answering.gather(request, asked)
    rows = asked.prompt_logprobs(0)
    answer = ChatCompletion(
        id=asked.id,
        created=answering.now(),
        model=name,
        choices=[
            _choice(service, body, tools, index, one)  # type: ignore[misc]
            for index, one in enumerate(samples)
        ],
        usage=answering.usage(asked),
        prompt_logprobs=None if rows is None else logprob_rows.of_prompt(rows, service.texts),  # type: ignore[arg-type]
        prompt_token_ids=prompt.ids if body.return_token_ids else None,
    )
    return answering.reply(request, body, answer)


def _params(service: Service, body: ChatRequest, tools: Tools | None) -> SamplingParams:
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
    if body.stream and body.prompt_logprobs is not None:
        raise refuse("prompt_logprobs cannot be streamed", "prompt_logprobs")
    at_most("top_logprobs", body.top_logprobs or 0, limits.max_logprobs)
    if body.top_logprobs and not body.logprobs:
        raise refuse("top_logprobs needs logprobs to be true", "top_logprobs")
    given: dict[str, Any] = {}
    if tools is not None:
        given |= _for_calls(service, body, tools)
    if body.logprobs:
        given["logprobs"] = body.top_logprobs or 0
    if body.max_completion_tokens is not None:
        given["max_tokens"] = body.max_completion_tokens
    elif body.max_tokens is None and not (service.words.defaults or {}).get("max_new_tokens"):
        given["max_tokens"] = None  # as many as the context holds
    return sampling_params(body, service.words, limits, **given)


def _for_calls(service: Service, body: ChatRequest, tools: Tools) -> dict[str, Any]:
    """Parameters under which calls can be read.

    Raises:
        ApiError: the answer is to be something else, too.
    """
    for name in ("response_format", *CONSTRAINTS):
        value = getattr(body, name)
        if value is not None and value != {"type": "text"}:
            raise refuse(f"tools and {name} exclude each other; set tool_choice to none", name)
    given = tools.params(service.words.tokenizer)
    if body.skip_special_tokens is not None:
        given.pop("skip_special_tokens", None)
    return given


def _choice(
    service: Service, body: ChatRequest, tools: Tools | None, index: int, sample: Sample
) -> dict[str, Any]:
    """What is said of one sample."""
    message: dict[str, Any] = {"content": sample.text}
    reason = sample.finish_reason
    if tools is not None:
        reader = tools.reader()
        deltas = [*reader.push(sample.text), *reader.finish()]
        content = "".join(one["content"] for one in deltas if "content" in one)
        message = {"content": content or (None if reader.calls else "")}
        reason = reader.reason(reason)
        if reader.calls:
            message["tool_calls"] = reader.calls
    logprobs = None
    if body.logprobs:
        as_ids = body.return_tokens_as_token_ids is True
        rows = logprob_rows.chat(sample.logprobs, body.top_logprobs or 0, service.texts, as_ids)
        logprobs = {"content": rows}
    return {
        "index": index,
        "message": message,
        "logprobs": logprobs,
        "finish_reason": reason,
        "stop_reason": sample.stop_reason,
        "token_ids": sample.token_ids if body.return_token_ids else None,
    }

"""``POST /v1/completions``: text continued, or scored."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from ...detokenizer import Detokenizer
from ...sampling_params import SamplingParams
from .. import answering, logprob_rows
from ..answering import Sample
from ..asked import Asked
from ..completion_chunks import CompletionChunks
from ..http_errors import refuse, unsupported
from ..json_body import BoundedRoute
from ..prompt_ids import PromptIds
from ..protocol.completions import Completion, CompletionRequest
from ..sampling import at_most, sampling_params
from ..service import Service
from .documented import generated


def router(service: Service) -> APIRouter:
    """The route of ``service``."""
    routes = APIRouter(route_class=BoundedRoute)

    @routes.post("/v1/completions", **generated(Completion, Completion), tags=["OpenAI"])
    async def create_completion(request: Request, body: CompletionRequest) -> Response:
        """Continue text, or score it with ``echo``, ``logprobs`` and ``max_tokens: 0``."""
        return await _answer(service, request, body)

    return routes


async def _answer(service: Service, request: Request, body: CompletionRequest) -> Response:
    name, model = service.name(body.model), service.generator()
    params = _params(service, body)
    await service.grammars.check(params.language)
    special = body.add_special_tokens is not False
    prompts = await service.reader.prompts(body.prompt, model, special)
    echoes = await _echoes(service, prompts, params) if body.echo else [""] * len(prompts)
    asked = answering.ask(service, request, "cmpl", prompts, params, body)
    if body.stream:
        writer = CompletionChunks(asked, body, name, service.texts, echoes)
        return await answering.stream(service, request, asked, writer, body)
    samples = await answering.gather(request, asked)
    choices = [
        {"index": index, **choice}
        for index, choice in enumerate(
            choice
            for place, of_prompt in enumerate(samples)
            for choice in _choices(service, body, asked, place, echoes[place], of_prompt)
        )
    ]
    answer = Completion(
        id=asked.id,
        created=answering.now(),
        model=name,
        choices=choices,  # type: ignore[arg-type]
        usage=answering.usage(asked),
    )
    return answering.reply(request, body, answer)


def _params(service: Service, body: CompletionRequest) -> SamplingParams:
    """How to sample.

    Raises:
        ApiError: fields that are not supported, or contradict one another.
    """
    limits = service.settings.limits
    at_most("prompt", len(body.prompt), limits.max_prompts, "prompts")
    at_most("logprobs", body.logprobs or 0, limits.max_logprobs)
    at_most("best_of", body.best_of or 1, limits.max_n)
    if body.suffix:
        raise unsupported("suffix", "this model only continues text")
    count = body.n or 1
    drawn = body.best_of or count
    if drawn < count:
        raise refuse(f"best_of must be at least n, {count}", "best_of")
    if body.stream and drawn > count:
        raise refuse("best_of above n needs all samples, and cannot be streamed", "best_of")
    if body.stream and body.prompt_logprobs is not None:
        raise refuse("prompt_logprobs cannot be streamed", "prompt_logprobs")
    if body.stream and body.echo and body.logprobs is not None:
        raise refuse("echo with logprobs cannot be streamed", "echo")
    given: dict[str, Any] = {"n": drawn}
    if body.logprobs is not None:
        given["logprobs"] = body.logprobs
    elif drawn > count:
        given["logprobs"] = 0
    if body.echo and (body.logprobs is not None or body.max_tokens == 0):
        given["prompt_logprobs"] = max(body.logprobs or 0, body.prompt_logprobs or 0)
    return sampling_params(body, service.words, limits, **given)


async def _echoes(service: Service, prompts: list[PromptIds], params: SamplingParams) -> list[str]:
    """The text of each prompt; nothing if there is no tokenizer."""
    if service.words.tokenizer is None:
        return [""] * len(prompts)
    return [
        one.text
        if one.text is not None
        else await service.reader.decode(one.ids, params.skip_special_tokens)
        for one in prompts
    ]


def _choices(
    service: Service,
    body: CompletionRequest,
    asked: Asked,
    place: int,
    echo: str,
    samples: list[Sample],
) -> list[dict[str, Any]]:
    """What is said of one prompt's samples."""
    prompt, count = asked.prompts[place], body.n or 1
    kept = samples if len(samples) == count else answering.best(samples, count)
    rows = asked.prompt_logprobs(place)
    of_prompt = None
    if rows is not None and body.prompt_logprobs is not None:
        of_prompt = logprob_rows.of_prompt(rows, service.texts)
    return [
        {
            "text": echo + one.text,
            "logprobs": _logprobs(service, body, prompt, rows, echo, one),
            "finish_reason": one.finish_reason,
            "stop_reason": one.stop_reason,
            "prompt_logprobs": of_prompt,
            "token_ids": one.token_ids if body.return_token_ids else None,
            "prompt_token_ids": prompt.ids if body.return_token_ids else None,
        }
        for one in kept
    ]


def _logprobs(
    service: Service,
    body: CompletionRequest,
    prompt: PromptIds,
    rows: Any,
    echo: str,
    sample: Sample,
) -> dict[str, Any] | None:
    """The log-probabilities of one choice, those of the prompt in front if it is echoed."""
    if body.logprobs is None:
        return None
    shown = [*(rows or ()), *sample.logprobs] if body.echo else sample.logprobs
    ids = [*prompt.ids, *sample.token_ids] if body.echo else sample.token_ids
    offsets = [len(echo) + one for one in sample.offsets]
    if body.echo:
        offsets = [*_offsets(service, prompt.ids, len(echo)), *offsets]
    as_ids = body.return_tokens_as_token_ids is True
    return logprob_rows.legacy(shown, ids, offsets, body.logprobs, service.texts, as_ids)


def _offsets(service: Service, ids: list[int], end: int) -> list[int]:
    """Where in the prompt's text each of its tokens begins, and never past its end."""
    if service.words.tokenizer is None:
        return [0] * len(ids)
    detokenizer, size, found = Detokenizer(service.words.tokenizer), 0, []
    for token in ids:
        found.append(min(size, end))
        size += len(detokenizer.push(token))
    return found

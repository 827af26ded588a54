"""``POST /v1/embeddings``: texts as vectors."""

from __future__ import annotations

import uuid
from collections.abc import Iterable

import numpy as np
from fastapi import APIRouter, Request
from starlette.responses import Response

from ...pooling import shortened
from .. import answering
from ..embedded import Embedded
from ..gone import until_gone
from ..http_errors import refuse
from ..json_body import BoundedRoute
from ..prompt_ids import PromptIds
from ..protocol.embeddings import EmbeddingList, EmbeddingRequest, EmbeddingUsage
from ..sampling import at_most
from ..service import Service
from ..sse import Written
from ..vector_json import written
from ..watch import record_of
from .documented import posted


def router(service: Service) -> APIRouter:
    """The route of ``service``."""
    routes = APIRouter(route_class=BoundedRoute, tags=["OpenAI"])

    @routes.post("/v1/embeddings", **posted(EmbeddingList))
    async def create_embedding(request: Request, body: EmbeddingRequest) -> Response:
        """A vector for each text; for a model that was compiled to embed."""
        return await until_gone(request.receive, _answer(service, request, body))

    return routes


async def _answer(service: Service, request: Request, body: EmbeddingRequest) -> Response:
    name = service.name(body.model)
    model, embedding = service.embedder()
    limits, dimensions = service.settings.limits, body.dimensions
    at_most("input", len(body.input), limits.max_inputs, "texts")
    if dimensions is not None and dimensions > embedding.dimensions:
        raise refuse(f"the model's vectors have {embedding.dimensions} dimensions", "dimensions")
    special = body.add_special_tokens is not False
    prompts = await service.reader.prompts(
        body.input, model, special, most_tokens=limits.max_input_tokens
    )
    vectors = await _vectors(service, request, prompts, body.priority or 0)
    tokens = sum(len(one.ids) for one in prompts)
    usage = EmbeddingUsage(prompt_tokens=tokens, total_tokens=tokens)
    shown: Iterable[bytes] = vectors
    if dimensions is not None and dimensions < embedding.dimensions:
        shown = (
            shortened(np.frombuffer(one, "<f4"), dimensions, normalize=embedding.normalize)
            .astype("<f4", copy=False)
            .tobytes()
            for one in vectors
        )
    pieces = written(
        shown,
        body.encoding_format or "float",
        {"model": name, "usage": usage.model_dump()},
    )
    return Written(
        await anext(pieces),
        pieces,
        lambda: None,
        limits.max_stall_s,
        {"content-type": "application/json", **answering.warn(request, body)},
    )


async def _vectors(
    service: Service, request: Request, prompts: list[PromptIds], priority: int
) -> list[bytes]:
    """What the engine makes of the texts.

    Raises:
        GraphoptError, ApiError: as ``Embedded``.
    """
    embedded = Embedded(
        service.client,
        service.admission,
        service.settings.limits,
        record_of(request.scope),
        f"embd-{uuid.uuid4().hex}",
        prompts,
        priority=priority,
    )
    try:
        return await embedded.vectors()
    finally:
        embedded.close()

"""``POST /v1/embeddings``: refused, for what is served generates text."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

from ..http_errors import refuse
from ..json_body import BoundedRoute
from ..protocol.embeddings import EmbeddingRequest
from ..service import Service
from .documented import refusals


def router(service: Service) -> APIRouter:
    """The route of ``service``."""
    routes = APIRouter(route_class=BoundedRoute, tags=["OpenAI"])

    @routes.post(
        "/v1/embeddings",
        responses=refusals(400, 401, 404, 408, 413, 415, 429, 503),
        status_code=400,
    )
    async def create_embedding(body: EmbeddingRequest) -> Response:
        """Not possible with a model that generates."""
        service.name(body.model)
        raise refuse(
            "this model generates text and gives no embeddings; artifacts for embeddings cannot be "
            "compiled yet, so no server of this version answers here",
            "model",
            "model_generates",
        )

    return routes

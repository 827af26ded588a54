"""``GET /v1/models``: the one model, under each of its names."""

from __future__ import annotations

from fastapi import APIRouter

from ..protocol.models import ModelCard, ModelList
from ..service import Service
from .documented import refusals


def router(service: Service) -> APIRouter:
    """The routes of ``service``."""
    routes = APIRouter(tags=["OpenAI"])

    def card(name: str) -> ModelCard:
        model = service.client.model
        return ModelCard(
            id=name,
            created=service.created,
            root=service.settings.names[0],
            max_model_len=None if model is None else model.max_model_len,
        )

    @routes.get("/v1/models", responses=refusals(401))
    async def list_models() -> ModelList:
        """All names of the model."""
        return ModelList(data=[card(name) for name in service.settings.names])

    @routes.get("/v1/models/{model:path}", responses=refusals(401, 404))
    async def retrieve_model(model: str) -> ModelCard:
        """One name of the model."""
        return card(service.name(model))

    return routes

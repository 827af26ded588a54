"""``/health``, ``/ready`` and ``/version``: what operators' machines ask."""

from __future__ import annotations

from fastapi import APIRouter

from ..http_errors import RESTART_S, SERVER, ApiError
from ..protocol.models import Alive, Version
from ..release import release
from ..service import Service
from .documented import refusals


def router(service: Service) -> APIRouter:
    """The routes of ``service``."""
    routes = APIRouter(tags=["Health"])

    @routes.get("/health")
    async def health() -> Alive:
        """Whether the server's process lives; it says nothing about the model."""
        return Alive()

    @routes.get("/ready", responses=refusals(503))
    async def ready() -> Alive:
        """Whether requests are served: the model is loaded, and the server does not stop."""
        if service.admission.draining:
            raise ApiError(503, "the server is about to stop", type=SERVER, code="draining")
        if service.client.model is None:
            raise ApiError(
                503,
                "the model is being loaded",
                type=SERVER,
                code="engine_gone",
                retry_after_s=RESTART_S,
            )
        return Alive()

    @routes.get("/version", responses=refusals(401))
    async def version() -> Version:
        """The version of the server."""
        return Version(version=release())

    return routes

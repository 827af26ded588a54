"""The application: every route, and what stands before them.

From the outside in: every request gets its record, shows its key or asks under a local name, is
admitted, and meets its route.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

from graphopt.embedding import Embedding

from ..words import Words
from .admission import Gate
from .auth import OPEN_PATHS, Auth
from .client import Client
from .head import Head
from .http_errors import install
from .local_names import LocalNames
from .observer import Observer
from .protocol.chat import ChatChunk
from .release import release
from .routes import chat, completions, embeddings, health, models, responses, tokens
from .routes.documented import component
from .service import Service
from .settings import Settings
from .watch import Watch

ROUTERS = (health, models, completions, chat, responses, embeddings, tokens)


def create_app(
    settings: Settings,
    client: Client,
    words: Words,
    observer: Observer,
    embedding: Embedding | None = None,
) -> FastAPI:
    """The server's routes over one engine.

    ``app.state.admission`` counts what is under way; its ``drain`` refuses what is new.

    Args:
        settings: what the operator chose.
        client: the engine, which may still be loading.
        words: tokenizer and sampling defaults of the artifact.
        observer: told of every request.
        embedding: how the model embeds; None for one that generates.
    """
    service = Service.of(settings, client, words, embedding)
    app = FastAPI(
        title="graphopt",
        version=release(),
        description="A language model behind OpenAI's API.",
        docs_url=None,  # those pages load their programs from elsewhere
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.settings = settings
    app.state.service = service
    app.state.admission = service.admission
    for module in ROUTERS:
        app.include_router(module.router(service))
    install(app)
    app.add_middleware(Head)
    app.add_middleware(Gate, admission=service.admission)
    if settings.is_loopback and settings.uds is None and not settings.api_keys:
        app.add_middleware(LocalNames)
    app.add_middleware(Auth, keys=settings.api_keys)
    app.add_middleware(Watch, observer=observer)
    app.openapi = lambda: _document(app)  # type: ignore[method-assign]
    return app


def _document(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document, made when it is first asked for."""
    if app.openapi_schema is None:
        found = FastAPI.openapi(app)
        parts = found.setdefault("components", {})
        for name in ("HTTPValidationError", "ValidationError"):
            parts.get("schemas", {}).pop(name, None)
        parts["schemas"] = {**component(ChatChunk), **parts["schemas"]}
        parts["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        keyed = bool(app.state.settings.api_keys)
        for path, methods in found["paths"].items():
            for operation in methods.values():
                operation["responses"].pop("422", None)  # what is not valid is answered with 400
                if keyed and path not in OPEN_PATHS:
                    operation["security"] = [{"key": []}]
        app.openapi_schema = found
    return app.openapi_schema

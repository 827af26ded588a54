"""The application: every route, and what stands before them."""

from __future__ import annotations

from fastapi import FastAPI

from ..words import Words
from .client import Client
from .observer import Observer
from .settings import Settings


def create_app(settings: Settings, client: Client, words: Words, observer: Observer) -> FastAPI:
    """The server's routes over one engine.

    Args:
        settings: what the operator chose.
        client: the engine, which may still be loading.
        words: tokenizer and sampling defaults of the artifact.
        observer: told of every request.
    """
    app = FastAPI(title="graphopt")
    app.state.settings = settings
    app.state.client = client
    app.state.words = words
    app.state.observer = observer
    return app

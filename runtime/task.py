"""What a model is for: to generate, or to embed; whoever asks for the other is told which it is."""

from __future__ import annotations

from graphopt.embedding import Embedding
from graphopt.errors import RequestError


def demand_generates(embedding: Embedding | None) -> None:
    """Demand that a model generates.

    Args:
        embedding: how it embeds; None if it generates.

    Raises:
        RequestError: it embeds.
    """
    if embedding is not None:
        raise RequestError(
            "this model turns texts into vectors, and generates nothing",
            next="ask for vectors (LLM.embed, graphopt embed, /v1/embeddings), or compile the "
            "checkpoint with --task generate",
        )


def demand_embeds(embedding: Embedding | None) -> Embedding:
    """How a model embeds.

    Args:
        embedding: how it embeds; None if it generates.

    Raises:
        RequestError: it generates.
    """
    if embedding is None:
        raise RequestError(
            "this model generates, and turns no text into a vector",
            next="ask for text (LLM.generate, graphopt generate, /v1/completions), or compile the "
            "checkpoint with --task embed",
        )
    return embedding

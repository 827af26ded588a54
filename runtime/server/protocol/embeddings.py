"""``/v1/embeddings``: what clients send."""

from __future__ import annotations

from .common import Body, Prompts


class EmbeddingRequest(Body):
    """Embed texts."""

    model: str | None = None
    input: Prompts
    encoding_format: str | None = None
    dimensions: int | None = None
    user: str | None = None

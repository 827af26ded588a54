"""``/v1/embeddings``: texts as vectors."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from .common import MAX_TOKEN, Body, Prompts, Reply


class EmbeddingRequest(Body):
    """Embed one text or several, given as text or as token ids."""

    model: str | None = None
    input: Prompts
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = Field(default=None, ge=1, le=MAX_TOKEN)
    add_special_tokens: bool | None = None
    priority: int | None = Field(default=None, ge=-(2**31), le=2**31 - 1)
    # Known, and of no consequence here: what is embedded is kept nowhere.
    user: str | None = None
    cache_salt: str | None = Field(default=None, min_length=1, max_length=256)


class EmbeddingData(Reply):
    """One text's vector.

    Attributes:
        index: number of the text.
        embedding: numbers, or base64 of 32-bit floats whose least byte comes first.
    """

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class EmbeddingUsage(Reply):
    """Tokens that a request took."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingList(Reply):
    """The vectors, in the order of the texts."""

    object: Literal["list"] = "list"
    data: list[EmbeddingData]
    model: str
    usage: EmbeddingUsage

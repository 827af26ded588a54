"""``/v1/models``, and what the server says of itself."""

from __future__ import annotations

from typing import Literal

from .common import Reply


class ModelCard(Reply):
    """One name that the model answers to.

    Attributes:
        id: the name.
        root: the name that answers carry if none was asked for.
        max_model_len: longest context in tokens; None while no model is loaded.
    """

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "graphopt"
    root: str
    parent: str | None = None
    max_model_len: int | None


class ModelList(Reply):
    """All names."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


class Version(Reply):
    """The version of the server."""

    version: str


class Alive(Reply):
    """The server lives, or serves."""

    status: Literal["ok"] = "ok"

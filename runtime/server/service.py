"""What all routes share: the engine, the words, the limits."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass, field

from fastapi import Request

from graphopt.embedding import Embedding
from graphopt.errors import EngineGoneError

from ..words import Words
from .admission import Admission
from .auth import key_of
from .client import Client
from .constraints import GrammarChecker
from .http_errors import ApiError, refuse
from .prompt_ids import PromptReader
from .settings import Settings
from .token_texts import TokenTexts
from .tool_calls import style_of
from .wire import Opened


@dataclass(frozen=True, slots=True)
class Service:
    """The parts of a server that answer requests.

    Attributes:
        settings: what the operator chose.
        client: the engine.
        words: tokenizer and sampling defaults.
        admission: counts what is under way.
        reader: makes token ids of prompts.
        texts: tokens as log-probabilities show them.
        grammars: looks at constraints before anything is queued.
        tool_style: how the model writes tool calls; None if that is not known.
        embedding: how the model embeds; None for one that generates.
        created: when the server started, in seconds since 1970.
    """

    settings: Settings
    client: Client
    words: Words
    admission: Admission
    reader: PromptReader
    texts: TokenTexts
    grammars: GrammarChecker
    tool_style: str | None = None
    embedding: Embedding | None = None
    created: int = field(default_factory=lambda: int(time.time()))

    @classmethod
    def of(
        cls, settings: Settings, client: Client, words: Words, embedding: Embedding | None = None
    ) -> Service:
        """The parts that belong to these."""
        return cls(
            settings,
            client,
            words,
            Admission(settings.limits),
            PromptReader(words.tokenizer),
            TokenTexts(words.tokenizer),
            GrammarChecker(),
            style_of(
                None if words.tokenizer is None else words.tokenizer.tool_template,
                settings.tool_call_parser,
            ),
            embedding,
        )

    def opened(self) -> Opened:
        """The model that is loaded.

        Raises:
            EngineGoneError: none is.
        """
        model = self.client.model
        if model is None:
            raise EngineGoneError("the model is being loaded", next="ask again in a few seconds")
        return model

    def generator(self) -> Opened:
        """The model that is loaded, if it generates.

        Raises:
            ApiError: it embeds; status 400.
            EngineGoneError: none is loaded.
        """
        if self.embedding is not None:
            raise refuse(
                "this model embeds and generates no text: ask /v1/embeddings",
                "model",
                "model_embeds",
            )
        return self.opened()

    def embedder(self) -> tuple[Opened, Embedding]:
        """The model that is loaded, and how it embeds, if it does.

        Raises:
            ApiError: it generates; status 400.
            EngineGoneError: none is loaded.
        """
        if self.embedding is None:
            raise refuse(
                "this model generates text and gives no embeddings: serve one that was compiled "
                "with --task embed",
                "model",
                "model_generates",
            )
        return self.opened(), self.embedding

    def name(self, asked: str | None) -> str:
        """The name by which an answer calls the model.

        Raises:
            ApiError: no model is called what the request asks for; status 404.
        """
        names = self.settings.names
        if asked is None or asked in names:
            return asked or names[0]
        raise ApiError(
            404,
            f"there is no model {asked[:100]!r}; there is {', '.join(names)}",
            param="model",
            code="model_not_found",
        )

    def salt(self, request: Request, asked: str | None) -> bytes:
        """What separates a request's prompts from those of others in the prefix cache."""
        key = b"" if self.settings.share_prefixes else key_of(request.scope)
        if not key and not asked:
            return b""
        return hashlib.sha256(key + b"\0" + (asked or "").encode()).digest()

"""What an operator looks at: ``/metrics`` for Prometheus, and a live page at ``/``.

The page is one file that needs nothing else. Nothing of a model or a request is in it: it reads
``/stats`` once a second, and puts what it reads into the document as text alone. A content security
policy lets the browser run and style by the two blocks written here, ask this server, and nothing
else.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files

import jinja2
import msgspec
from fastapi import APIRouter
from markupsafe import Markup
from starlette.responses import Response

from .metrics import Metrics
from .routes.documented import refusals

SCRIPTS = ("units", "chart", "server", "board", "chat", "main")
ELEMENTS = "elements.js"  # shared with the page of a compiled model


@dataclass(frozen=True, slots=True)
class Page:
    """A page and what it is sent with.

    Attributes:
        body: HTML in UTF-8.
        headers: of the answer.
    """

    body: bytes
    headers: Mapping[str, str]


def live_page() -> Page:
    """The page, the same for every model."""
    style = _read("page.css")
    elements = (files("graphopt.report") / "page" / ELEMENTS).read_text(encoding="utf-8")
    parts = (elements, *(_read(f"{name}.js") for name in SCRIPTS))
    script = '"use strict";\n(() => {\n' + "\n".join(parts) + "\n})();\n"
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    body = environment.from_string(_read("page.html")).render(
        style=Markup(style), script=Markup(script)
    )
    policy = (
        f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}'; "
        "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )
    return Page(
        body.encode(),
        {
            "content-security-policy": policy,
            "x-content-type-options": "nosniff",
            "referrer-policy": "no-referrer",
            "cross-origin-opener-policy": "same-origin",
            "cache-control": "no-cache",
        },
    )


def operator_routes(
    metrics: Metrics,
    *,
    chat: bool = True,
    embeds: bool = False,
    page: bool = True,
    exposition: bool = True,
) -> APIRouter:
    """Routes that show what the server does.

    Args:
        metrics: the server's numbers.
        chat: whether the model has a chat template; else the page's chat continues text.
        embeds: whether the model embeds: then the page has no chat.
        page: whether there are ``/`` and ``/stats``.
        exposition: whether there is ``/metrics``.
    """
    router = APIRouter(tags=["operation"])
    uncached = {"cache-control": "no-store"}
    if exposition:
        text = {200: {"content": {"text/plain": {"schema": {"type": "string"}}}}, **refusals(401)}

        @router.get(
            "/metrics",
            response_class=Response,
            summary="Numbers for Prometheus",
            responses=text,
        )
        async def show_metrics() -> Response:
            content_type, body = metrics.exposition()
            return Response(body, headers={"content-type": content_type, **uncached})

    if page:
        shown = live_page()
        data = {
            200: {"content": {"application/json": {"schema": {"type": "object"}}}},
            **refusals(400, 401),
        }

        @router.get("/", response_class=Response, summary="A live page", include_in_schema=False)
        async def show_page() -> Response:
            return Response(shown.body, media_type="text/html", headers=dict(shown.headers))

        @router.get(
            "/stats", response_class=Response, summary="What the page shows", responses=data
        )
        async def show_stats(history: bool = False) -> Response:
            stats = metrics.stats(history=history)
            body = msgspec.json.encode({**stats, "chat": chat, "embeds": embeds})
            return Response(body, media_type="application/json", headers=uncached)

    return router


def _read(name: str) -> str:
    return (files(__package__) / "page_files" / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"

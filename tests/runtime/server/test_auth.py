"""Keys: asked for everywhere but at the two doors that machines knock at."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

import pytest

from graphopt.runtime.server.auth import Auth, key_of

from .fake_engine import FakeEngine, app_over, client_of

KEYS = ("first-key", "second-key")


def _status(method: str, path: str, *headers: tuple[str, str]) -> tuple[int, dict[str, str]]:
    async def run() -> tuple[int, dict[str, str]]:
        async with client_of(app_over(FakeEngine(), api_keys=KEYS)) as client:
            found = await client.request(method, path, headers=list(headers))
            return found.status_code, dict(found.headers)

    return asyncio.run(run())


def _basic(text: str) -> str:
    return "Basic " + base64.b64encode(text.encode()).decode()


def test_every_route_but_two_asks_for_a_key() -> None:
    app = app_over(FakeEngine(), api_keys=KEYS)
    operations = [(path, m) for path, ms in app.openapi()["paths"].items() for m in ms]
    assert len(operations) > 8
    for path, method in [*operations, ("/openapi.json", "get"), ("/nothing", "get"), ("/", "get")]:
        status, headers = _status(method.upper(), path)
        if path in ("/health", "/ready"):
            assert status == 200
        else:
            assert status == 401, path
            assert headers["www-authenticate"].startswith("Basic ")


@pytest.mark.parametrize(
    "value",
    ["Bearer first-key", "bearer second-key", "Bearer  first-key ", _basic("anyone:second-key")],
)
def test_any_of_the_keys_opens(value: str) -> None:
    assert _status("GET", "/version", ("authorization", value))[0] == 200


@pytest.mark.parametrize(
    "value",
    [
        "",
        "first-key",
        "Bearer",
        "Bearer first",
        "Bearer first-keyx",
        "Bearer first-key second-key",
        "Basic first-key",
        "Basic !!!",
        _basic("first-key"),
        _basic("first-key:"),
        "Digest first-key",
    ],
)
def test_nothing_else_does(value: str) -> None:
    assert _status("GET", "/version", ("authorization", value))[0] == 401


def test_a_key_that_is_shown_twice_is_none() -> None:
    header = ("authorization", "Bearer first-key")
    assert _status("GET", "/version", header, header)[0] == 401


def test_all_keys_are_compared_whichever_was_right(monkeypatch: pytest.MonkeyPatch) -> None:
    from graphopt.runtime.server import auth

    compared: list[bytes] = []

    def compare(one: bytes, other: bytes) -> bool:
        compared.append(one)
        return one == other

    monkeypatch.setattr(auth.hmac, "compare_digest", compare)
    assert _status("GET", "/version", ("authorization", "Bearer first-key"))[0] == 200
    assert len(compared) == 2


def test_without_keys_nobody_is_asked_and_the_scope_has_no_key() -> None:
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(key_of(scope))

    scope = {"type": "http", "path": "/x", "headers": []}
    asyncio.run(Auth(app, ())(scope, None, None))  # type: ignore[arg-type]
    keyed = {"type": "http", "path": "/x", "headers": [(b"authorization", b"Bearer k")]}
    asyncio.run(Auth(app, ("k",))(keyed, None, None))  # type: ignore[arg-type]
    assert seen[0] == b""
    assert len(seen[1]) == 32

"""Names under which a server without a key answers."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from graphopt.runtime.server.local_names import is_local

from .fake_engine import FakeEngine, app_over, client_of


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "localhost:8000",
        "LOCALHOST.:80",
        "127.0.0.1:8000",
        "192.168.1.5",
        "[::1]:8000",
        "::1",
        "mybox",
        "mybox.local",
        "a.b.localhost:1",
        "",
    ],
)
def test_names_that_nobody_can_register_are_local(host: str) -> None:
    assert is_local(host)


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8000",
        "localhost.evil.com",
        "127.0.0.1.nip.io",
        "127.0.0.1.evil",
        "evil.com.",
        "evillocal.com",
    ],
)
def test_names_of_the_public_dns_are_not(host: str) -> None:
    assert not is_local(host)


def _status(name: str, **settings: Any) -> int:
    async def run() -> int:
        async with client_of(app_over(FakeEngine(), **settings)) as client:
            found = await client.get("/health", headers={"host": name})
            if found.status_code == 421:
                assert found.json()["error"]["code"] == "not_a_local_name"
            return found.status_code

    return asyncio.run(run())


def test_only_a_server_on_loopback_without_a_key_minds_its_name(tmp_path: Any) -> None:
    assert _status("evil.example") == 421
    assert _status("localhost:8000") == 200
    assert _status("api.example.com", api_keys=("k",)) == 200
    assert _status("api.example.com", host="0.0.0.0") == 200
    assert _status("api.example.com", uds=tmp_path / "socket") == 200

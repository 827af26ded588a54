"""The layer around the app: ids, statuses, routes, and failures."""

from __future__ import annotations

import asyncio

import httpx
import pytest
from fastapi import FastAPI, Request

from graphopt.runtime.server.observer import Observer, Record
from graphopt.runtime.server.watch import Watch, record_of
from graphopt.runtime.server.wire import Opened


class Ends:
    """Keeps the records that ended."""

    def __init__(self) -> None:
        self.records: list[Record] = []

    def arrived(self, record: Record) -> None:
        pass

    def ended(self, record: Record) -> None:
        self.records.append(record)

    def loaded(self, model: Opened) -> None:
        pass

    def gone(self) -> None:
        pass


def make() -> tuple[FastAPI, list[Record]]:
    ends = Ends()
    app = FastAPI()

    @app.get("/things/{name}")
    async def thing(name: str, request: Request) -> str:
        record_of(request.scope).asked(3)
        return name

    @app.get("/broken")
    async def broken() -> None:
        raise ValueError("no")

    app.add_middleware(Watch, observer=Observer([ends]))
    return app, ends.records


def get(app: FastAPI, path: str, headers: dict[str, str] | None = None) -> httpx.Response:
    async def call() -> httpx.Response:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
            return await client.get(path, headers=headers)

    return asyncio.run(call())


def test_a_record_goes_with_each_request() -> None:
    app, records = make()
    traced = "00-" + "1" * 32 + "-" + "2" * 16 + "-01"
    reply = get(app, "/things/a", {"x-request-id": "mine", "traceparent": traced})
    assert reply.headers["x-request-id"] == "mine"
    (record,) = records
    assert (record.id, record.method, record.status) == ("mine", "GET", 200)
    assert record.route == "/things/{name}"
    assert record.traceparent == traced
    assert len(record.generations) == 1
    assert record.finished_s is not None


@pytest.mark.parametrize("path", ["/nothing", "/things/a/b", "/%2e%2e/x"])
def test_unknown_paths_are_one_route(path: str) -> None:
    app, records = make()
    reply = get(app, path)
    assert reply.status_code == 404
    assert [(r.route, r.status) for r in records] == [("other", 404)]
    assert reply.headers["x-request-id"] == records[0].id


def test_a_failure_is_noted_with_its_cause() -> None:
    app, records = make()
    reply = get(app, "/broken", {"x-request-id": "bad id"})
    assert reply.status_code == 500
    assert (records[0].status, records[0].why) == (500, "ValueError: no")
    assert records[0].route == "/broken"
    assert len(records[0].id) == 32


def test_without_the_layer_a_record_leads_nowhere() -> None:
    scope = {"type": "http", "method": "GET"}
    assert record_of(scope) is record_of(scope)

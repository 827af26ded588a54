"""What attackers send: it is refused before it costs anything, and nobody else notices."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import psutil
import pytest

import graphopt
from tests.clients.encoder import small_encoder
from tests.clients.mutations import mutated
from tests.clients.served import Served, serve

KEY = "a-key-for-the-attack"
REQUESTS = int(os.environ.get("GRAPHOPT_ATTACK_REQUESTS", "10000"))
DEMO = Path(__file__).parents[2] / "examples" / "demo-llama"
HEADERS = {"Authorization": f"Bearer {KEY}"}
PATIENCE_S = 30.0

pytestmark = pytest.mark.full


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("attack") / "demo.gopt"
    graphopt.compile_checkpoint(DEMO, output=folder)
    with serve(folder, "--api-key", KEY, "--max-idle-s", "4") as one:
        yield one


def ask(server: Served, **body: object) -> httpx.Response:
    """A completion, as anybody asks for it."""
    given = {"model": server.model, "prompt": "def read(", "max_tokens": 4, **body}
    return httpx.post(
        f"{server.url}/v1/completions", json=given, headers=HEADERS, timeout=PATIENCE_S
    )


def address(server: Served) -> tuple[str, int]:
    url = httpx.URL(server.url)
    assert url.port is not None
    return url.host, url.port


async def attack(server: Served, count: int, seed: int) -> tuple[Counter[int], list[str]]:
    """Send mutated requests, eight at a time; statuses, and what should not have happened."""
    statuses: Counter[int] = Counter()
    faults: list[str] = []
    rng = random.Random(seed)
    left = iter(range(count))

    async def work(client: httpx.AsyncClient) -> None:
        for _ in left:
            method, path, headers, body = mutated(rng, server.model)
            try:
                answer = await client.request(
                    method,
                    path,
                    headers={**HEADERS, **{k: v.encode() for k, v in headers.items()}},
                    content=body,
                )
            except httpx.TimeoutException:
                faults.append(f"no answer: {method} {path} {headers} {body[:300]!r}")
            except httpx.HTTPError:
                statuses[0] += 1  # the connection was closed on what is not HTTP
            else:
                statuses[answer.status_code] += 1
                if answer.status_code >= 500 or len(answer.content) > 1 << 20:
                    faults.append(f"{answer.status_code}: {method} {path} {headers} {body[:300]!r}")

    async with httpx.AsyncClient(base_url=server.url, timeout=PATIENCE_S) as client:
        await asyncio.gather(*(work(client) for _ in range(8)))
    return statuses, faults


def test_mutated_requests_get_no_server_error_and_leave_no_memory_behind(server: Served) -> None:
    process = psutil.Process(server.process.pid)
    asyncio.run(attack(server, REQUESTS // 5, seed=1))
    before = process.memory_info().rss
    statuses, faults = asyncio.run(attack(server, REQUESTS, seed=2))
    grown = process.memory_info().rss - before
    print(dict(statuses), f"{grown >> 20} MiB more")
    assert faults == []
    assert statuses[400] > REQUESTS // 10
    assert statuses[0] < REQUESTS // 10
    assert grown < 32 << 20
    assert ask(server).status_code == 200


def test_a_server_of_vectors_takes_the_same(tmp_path: Path) -> None:
    checkpoint = small_encoder(tmp_path / "checkpoint", DEMO)
    graphopt.compile_checkpoint(checkpoint, output=tmp_path / "encoder.gopt", task="embed")
    with serve(tmp_path / "encoder.gopt", "--api-key", KEY) as one:
        statuses, faults = asyncio.run(attack(one, REQUESTS // 4, seed=3))
        print(dict(statuses))
        assert faults == []
        assert statuses[200] > 0
        body = {"model": one.model, "input": ["a"] * 2048}
        url = f"{one.url}/v1/embeddings"
        started = time.monotonic()
        for wrong in ({"input": ["a"] * 2049}, {"input": [5] * 600_000}, {"dimensions": 10**6}):
            given = {**body, **wrong}
            answer = httpx.post(url, json=given, headers=HEADERS, timeout=PATIENCE_S)
            assert answer.status_code == 400
            assert len(answer.text) < 4000
        assert time.monotonic() - started < 5
        for _ in range(4):  # who leaves takes his texts along
            with suppress(httpx.TimeoutException):
                httpx.post(url, json=body, headers=HEADERS, timeout=0.2)
        answer = httpx.post(url, json=body, headers=HEADERS, timeout=PATIENCE_S)
        assert answer.status_code == 200
        assert len(answer.json()["data"]) == 2048


def test_idle_and_slow_connections_do_not_stop_others(server: Served) -> None:
    """A thousand connections that say nothing, and a hundred that never finish their request."""

    async def attack() -> tuple[list[float], int]:
        host, port = address(server)
        idle = await asyncio.gather(*(asyncio.open_connection(host, port) for _ in range(1000)))
        slow = await asyncio.gather(*(asyncio.open_connection(host, port) for _ in range(100)))
        for _, writer in slow:
            writer.write(b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nX-Slow: ")

        async def drip() -> None:
            while True:
                for _, writer in slow:
                    if not writer.is_closing():
                        writer.write(b"a")
                await asyncio.sleep(0.5)

        dripping = asyncio.create_task(drip())
        times = []
        for _ in range(10):
            started = time.monotonic()
            answer = await asyncio.to_thread(ask, server)
            assert answer.status_code == 200
            times.append(time.monotonic() - started)
        deadline = time.monotonic() + 30
        open_still = [*idle, *slow]
        while open_still and time.monotonic() < deadline:
            await asyncio.sleep(0.5)
            open_still = [
                (reader, writer)
                for reader, writer in open_still
                if not (reader.at_eof() or writer.is_closing())
            ]
        dripping.cancel()
        for _, writer in (*idle, *slow):
            writer.close()
        return times, len(open_still)

    times, open_still = asyncio.run(attack())
    assert max(times) < 5
    assert open_still == 0, "connections that send nothing are kept"


def test_what_is_too_large_is_refused_before_it_is_read(server: Served) -> None:
    host, port = address(server)
    head = (
        f"POST /v1/completions HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {KEY}\r\n"
        "Content-Type: application/json\r\n"
    )

    async def lie() -> bytes:
        """Announce a gigabyte and send nothing of it."""
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(f"{head}Content-Length: {1 << 30}\r\n\r\n".encode())
        line = await asyncio.wait_for(reader.readline(), PATIENCE_S)
        writer.close()
        return line

    async def pour() -> tuple[bytes, int]:
        """Send chunks without end, and see how many are taken."""
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
        sent, line = 0, asyncio.create_task(reader.readline())
        try:
            while sent < 64 << 20 and not line.done():
                writer.write(b"10000\r\n" + b"a" * (1 << 16) + b"\r\n")
                await writer.drain()
                sent += 1 << 16
                await asyncio.sleep(0)
        except ConnectionError:
            pass
        found = await asyncio.wait_for(line, PATIENCE_S)
        writer.close()
        return found, sent

    assert b" 413 " in asyncio.run(lie())
    line, sent = asyncio.run(pour())
    assert b" 413 " in line
    assert sent < 32 << 20
    for body in (
        {"prompt": "a " * 1_900_000},
        {"prompt": [5] * 600_000},
        {"n": 10**6},
        {"stop": ["a" * 100_000]},
        {"stop": [str(one) for one in range(10_000)]},
        {"logprobs": 10**6},
        {"logit_bias": {str(one): 1 for one in range(50_000)}},
    ):
        started = time.monotonic()
        answer = ask(server, **body)
        assert answer.status_code in (400, 413), answer.text[:300]
        assert len(answer.text) < 4000
        assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    "body",
    [
        {"structured_outputs": {"regex": "(a|a)*" * 200 + "b"}},
        {"structured_outputs": {"regex": "((a{1,200}){1,200}){1,200}"}},
        {"structured_outputs": {"choice": ["a" * 1000] * 1000}},
        {"structured_outputs": {"grammar": "start: " + "(" * 5000 + '"a"' + ")" * 5000}},
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {
                    "name": "a",
                    "schema": {
                        "$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/a"}]}},
                        "$ref": "#/$defs/a",
                    },
                },
            }
        },
        {"chat_template": "{% for a in range(10**9) %}{{ a }}{% endfor %}"},
        {"chat_template_kwargs": {"messages": "{{ a }}"}},
    ],
    ids=["alternatives", "repetitions", "choices", "nesting", "recursion", "template", "variables"],
)
def test_bombs_end_within_their_limit(body: dict[str, object], server: Served) -> None:
    started = time.monotonic()
    given = {
        "model": server.model,
        "messages": [{"role": "user", "content": "a"}],
        "max_tokens": 4,
        **body,
    }
    answer = httpx.post(
        f"{server.url}/v1/chat/completions", json=given, headers=HEADERS, timeout=PATIENCE_S
    )
    assert answer.status_code < 500, answer.text[:300]
    assert time.monotonic() - started < 15
    assert ask(server).status_code == 200


def test_no_route_without_a_key(server: Served) -> None:
    documented = httpx.get(f"{server.url}/openapi.json", headers=HEADERS).json()
    open_routes = []
    for path, methods in documented["paths"].items():
        for method in methods:
            answer = httpx.request(method, f"{server.url}{path.replace('{model}', 'x')}")
            if answer.status_code != 401:
                open_routes.append(path)
    assert set(open_routes) <= {"/health", "/ready"}
    assert httpx.get(f"{server.url}/openapi.json").status_code == 401
    assert httpx.get(f"{server.url}/docs").status_code in (401, 404)

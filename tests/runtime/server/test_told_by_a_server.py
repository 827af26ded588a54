"""What a whole server tells of itself: numbers, log, page, and a measurement of it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import TimeoutError, expect
from prometheus_client.parser import text_string_to_metric_families

from ...browsers import installed_browser
from .running import Served, served, until

pytestmark = pytest.mark.full

KEY = "the-key-of-nobody"
SECRET = "a_secret_prompt_of_mine"
ASK = {"authorization": f"Bearer {KEY}"}


@pytest.fixture(scope="module")
def keyed(demo: Path) -> Iterator[Served]:
    """A server that asks for a key and logs JSON."""
    words = ("--log-format", "json", "--log-level", "debug", "--served-model-name", "demo")
    with served(demo, *words, GRAPHOPT_API_KEY=KEY) as found:
        found.says('"event": "ready"')
        line = json.loads(found.says('"event": "listening"'))
        found.url = line["url"][0]
        yield found


def numbers(server: Served) -> dict[str, float]:
    """All numbers of Prometheus, the labels of one metric added up."""
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(server.get("/metrics", headers=ASK).text):
        for sample in family.samples:
            if "le" not in sample.labels:
                name = sample.name.removeprefix("graphopt:")
                found[name] = found.get(name, 0.0) + sample.value
    return found


def complete(
    server: Served, headers: dict[str, str] | None = None, **fields: object
) -> httpx.Response:
    body = {"prompt": SECRET, "max_tokens": 5, "ignore_eos": True, "temperature": 0, **fields}
    url = f"{server.url}/v1/completions"
    return httpx.post(url, json=body, headers={**ASK, **(headers or {})}, timeout=60)


def test_numbers_are_those_of_the_answers(keyed: Served) -> None:
    before = numbers(keyed)
    usages = [complete(keyed, n=n).json()["usage"] for n in (1, 2)]
    chat = {"messages": [{"role": "user", "content": SECRET}], "max_tokens": 4, "stream": True,
            "stream_options": {"include_usage": True}, "ignore_eos": True}  # fmt: skip
    text = httpx.post(f"{keyed.url}/v1/chat/completions", json=chat, headers=ASK, timeout=60).text
    usages.append(json.loads(text.split("data: ")[-2])["usage"])
    until(lambda: numbers(keyed)["request_success_total"] - before["request_success_total"] == 4)
    after = numbers(keyed)
    grown = {name: after[name] - before.get(name, 0.0) for name in after}
    generated = sum(usage["completion_tokens"] for usage in usages)
    assert generated == 5 + 10 + 4
    assert grown["generation_tokens_total"] == generated
    assert grown["request_generation_tokens_sum"] == generated
    assert grown["request_prompt_tokens_sum"] == sum(usage["prompt_tokens"] for usage in usages)
    for name in (
        "time_to_first_token_seconds", "e2e_request_latency_seconds", "request_queue_time_seconds",
        "request_time_per_output_token_seconds", "request_prefill_time_seconds",
        "request_decode_time_seconds",
    ):  # fmt: skip
        assert grown[f"{name}_count"] == 3, name
    assert 0 < grown["inter_token_latency_seconds_count"] <= generated - 4
    assert after["num_requests_running"] == after["num_requests_waiting"] == 0
    assert after["engine_up"] == 1


def test_refusals_are_counted(keyed: Served) -> None:
    before = numbers(keyed).get("request_refused_total", 0.0)
    assert complete(keyed, {"authorization": "Bearer wrong"}).status_code == 401
    assert complete(keyed, max_tokens=-1).status_code == 400
    assert complete(keyed, model="x" * 20).status_code == 404
    body = keyed.get("/metrics", headers=ASK).text
    assert numbers(keyed)["request_refused_total"] == before + 3
    assert "x" * 20 not in body
    assert "wrong" not in body


def test_the_log_has_a_line_for_a_request_and_no_secrets(keyed: Served) -> None:
    reply = complete(keyed, {"x-request-id": "find-me-1"})
    assert reply.headers["x-request-id"] == "find-me-1"
    line = json.loads(keyed.says('"id": "find-me-1"'))
    usage = reply.json()["usage"]
    assert (line["event"], line["route"], line["status"]) == ("request", "/v1/completions", 200)
    assert line["prompt_tokens"] == usage["prompt_tokens"]
    assert (line["completion_tokens"], line["finish"]) == (5, ["length"])
    assert 0 < line["ttft_s"] <= line["seconds"]
    complete(
        keyed, {"x-request-id": "bad id here", "authorization": f"Bearer {KEY}x"}, prompt=SECRET
    )
    complete(keyed, {"x-request-id": "find-me-2"}, stop=SECRET, temperature="hot")
    keyed.says('"id": "find-me-2"')
    assert "bad id" not in keyed.log
    assert KEY not in keyed.log
    assert SECRET not in keyed.log
    assert all(json.loads(one)["level"] for one in keyed.lines)


def test_a_client_that_goes_away_is_counted(keyed: Served) -> None:
    before = numbers(keyed)
    body = {"prompt": SECRET, "max_tokens": 900, "ignore_eos": True, "stream": True}
    url = f"{keyed.url}/v1/completions"
    with httpx.stream("POST", url, json=body, headers=ASK, timeout=60) as reply:
        next(reply.iter_lines())
    until(
        lambda: numbers(keyed)["client_disconnects_total"] == before["client_disconnects_total"] + 1
    )
    until(lambda: numbers(keyed)["num_requests_running"] == 0)
    after = numbers(keyed)
    assert after["request_success_total"] == before["request_success_total"] + 1
    assert after["e2e_request_latency_seconds_count"] == before["e2e_request_latency_seconds_count"]


def test_counters_go_on_when_the_engine_is_killed(keyed: Served) -> None:
    complete(keyed)
    before = numbers(keyed)
    os.kill(keyed.engine_pid, signal.SIGKILL)
    until(lambda: numbers(keyed)["engine_restarts_total"] == before["engine_restarts_total"] + 1)
    until(lambda: keyed.get("/ready").status_code == 200)
    assert numbers(keyed)["generation_tokens_total"] == before["generation_tokens_total"]
    complete(keyed)
    until(
        lambda: numbers(keyed)["generation_tokens_total"] == before["generation_tokens_total"] + 5
    )


@pytest.mark.browser
def test_the_page_is_live_and_talks(keyed: Served) -> None:
    complaints: list[str] = []
    with installed_browser() as browser:
        context = browser.new_context(http_credentials={"username": "me", "password": KEY})
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda message: complaints.append(message.text))
        page.goto(keyed.url)
        expect(page.locator(".state")).to_have_text("serving")
        expect(page.locator("h1")).to_have_text("demo")
        page.get_by_label("temperature").fill("0")
        page.get_by_label("at most").fill("12")
        page.get_by_label("Message").fill("Return the number of")
        page.keyboard.press("Enter")
        note = page.locator(".turn.assistant .note")
        expect(note).to_contain_text("first after")
        assert (page.locator(".turn.assistant .words").text_content() or "").strip()
        first = page.get_by_label("Time to first token", exact=True).first
        expect(first.locator(".card-value")).to_contain_text("ms")
        since = page.get_by_label("Since the server started")
        expect(since.locator("tr", has_text="tokens generated")).not_to_contain_text(" 0")
        page.get_by_label("at most").fill("900")
        page.get_by_label("Message").fill("And on and on")
        page.keyboard.press("Enter")
        stop = page.get_by_role("button", name="Stop")
        with suppress(TimeoutError):  # the answer may end by itself before
            stop.click(timeout=2_000)
        expect(page.get_by_role("button", name="Send")).to_be_visible()
        context.close()
    assert complaints == []
    until(lambda: numbers(keyed)["num_requests_running"] == 0)


def test_it_is_measured(keyed: Served, tmp_path: Path) -> None:
    out = tmp_path / "all.json"
    command = [
        sys.executable, "-m", "graphopt", "bench", "serve", keyed.url, "--num-prompts", "12",
        "--max-concurrency", "4", "--prompt-tokens", "uniform:20:60", "--output-tokens", "8",
        "--slo", "ttft:60000", "tpot:60000", "-o", str(out), "--json",
    ]  # fmt: skip
    environment = {**os.environ, "GRAPHOPT_API_KEY": KEY}
    for endpoint in ("completions", "chat"):
        found = subprocess.run(
            [*command, "--endpoint", endpoint], env=environment, capture_output=True, text=True
        )
        assert found.returncode == 0, found.stdout + found.stderr
        (run,) = json.loads(found.stdout)["runs"]
        assert (run["completed"], run["output_tokens"], run["failed"]) == (12, 96, {})
        assert run["goodput"]["share"] == 1.0
        lengths = [
            one["prompt_tokens"] for one in json.loads(out.read_text())["runs"][0]["details"]
        ]
        assert all(20 <= length <= 60 for length in lengths)
        assert len(set(lengths)) > 3


class Collector(BaseHTTPRequestHandler):
    """Takes spans."""

    got: list[tuple[str, bytes]]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        type(self).got.append((self.path, body))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *words: object) -> None:
        """Nothing."""


def test_spans_reach_a_collector(demo: Path) -> None:
    Collector.got = []
    with HTTPServer(("127.0.0.1", 0), Collector) as collector:
        threading.Thread(target=collector.serve_forever, daemon=True).start()
        endpoint = f"http://127.0.0.1:{collector.server_port}"
        with served(demo, "--otlp-endpoint", endpoint) as server:
            server.ready()
            assert server.complete().status_code == 200
            server.stop()
        collector.shutdown()
    paths = {path for path, _ in Collector.got}
    everything = b"".join(body for _, body in Collector.got)
    assert paths == {"/v1/traces"}
    assert b"gen_ai.usage.output_tokens" in everything
    assert b"def main(" not in everything


def test_a_collector_that_is_gone_is_no_ones_trouble(demo: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with served(demo, "--otlp-endpoint", f"http://127.0.0.1:{port}") as server:
        server.ready()
        assert server.complete().status_code == 200
        assert server.stop() == 0

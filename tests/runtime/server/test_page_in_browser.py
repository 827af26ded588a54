"""The live page in a real browser: numbers that move, a chat, keys, and servers that fail."""

from __future__ import annotations

import asyncio
import json
import re
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI, Request
from playwright.sync_api import Browser, Page, expect
from starlette.responses import JSONResponse, Response, StreamingResponse

from graphopt.runtime.server.auth import Auth
from graphopt.runtime.server.metrics import Metrics
from graphopt.runtime.server.observer import Observer
from graphopt.runtime.server.page import operator_routes
from graphopt.runtime.server.wire import Opened, Part, State

from ...browsers import installed_browser

pytestmark = [pytest.mark.browser, pytest.mark.full]

HOSTILE = "<img src=x onerror=alert(1)>"
Open = Callable[..., Page]


class Fake:
    """A server with the real page over an engine that does what a test says."""

    def __init__(self) -> None:
        self.metrics = Metrics("tiny", "1.2.3", "cpu")
        self.observer = Observer([self.metrics], pulse=self.metrics)
        self.key = ""
        self.guarded = False
        self.words = ["Hello", " there", HOSTILE]
        self.endless = False
        self.gone = 0
        self.asked: list[dict[str, object]] = []
        self.bodies: list[bytes] = []
        app = FastAPI()
        app.add_api_route("/v1/chat/completions", self.chat, methods=["POST"])
        app.add_api_route("/v1/completions", self.chat, methods=["POST"])
        self.chatty = FastAPI()
        self.chatty.include_router(operator_routes(self.metrics, chat=True))
        self.plain = FastAPI()
        self.plain.include_router(operator_routes(self.metrics, chat=False))
        self.templated = True
        self.mute = FastAPI()
        self.mute.include_router(operator_routes(self.metrics, chat=False, embeds=True))
        self.embeds = False

        @app.middleware("http")
        async def keyed(request: Request, call_next: Callable[..., object]) -> Response:
            shown = request.headers.get("authorization", "")
            if self.key and request.url.path != "/" and shown != f"Bearer {self.key}":
                return JSONResponse({"error": {"message": "no valid key"}}, 401)
            return await call_next(request)  # type: ignore[misc, no-any-return]

        app.mount("/", self.operate)
        guarded = Auth(app, ["the-key"])

        async def served(scope: Any, receive: Any, send: Any) -> None:
            await (guarded if self.guarded else app)(scope, receive, send)

        self.server = uvicorn.Server(uvicorn.Config(served, port=0, log_level="critical"))
        self.thread = threading.Thread(target=self.server.run, daemon=True)
        self.thread.start()
        deadline = time.monotonic() + 20
        while not self.server.started:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        port = self.server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}/"

    async def operate(self, scope: Any, receive: Any, send: Any) -> None:
        talks = self.chatty if self.templated else self.plain
        await (self.mute if self.embeds else talks)(scope, receive, send)

    async def chat(self, request: Request) -> Response:
        self.asked.append(await request.json())
        return StreamingResponse(self.events(), media_type="text/event-stream")

    async def events(self) -> AsyncIterator[str]:
        try:
            while True:
                for word in self.words:
                    choice = {"index": 0, "delta": {"content": word}, "text": word}
                    yield f"data: {json.dumps({'choices': [choice]})}\n\n"
                    await asyncio.sleep(0.01)
                if not self.endless:
                    break
            done = {"index": 0, "delta": {}, "finish_reason": "length"}
            yield f"data: {json.dumps({'choices': [done]})}\n\n"
            usage = {"prompt_tokens": 3, "completion_tokens": len(self.words)}
            yield f"data: {json.dumps({'choices': [], 'usage': usage})}\n\ndata: [DONE]\n\n"
        finally:
            self.gone += 1

    def stop(self) -> None:
        self.server.should_exit = True
        self.server.force_exit = True
        self.thread.join(10)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with installed_browser() as found:
        yield found


@pytest.fixture
def fake() -> Iterator[Fake]:
    made = Fake()
    yield made
    made.stop()


@pytest.fixture
def open_page(browser: Browser, fake: Fake) -> Iterator[Open]:
    """Opens the page; at the end nothing complained, and nobody else was asked."""
    complaints: list[str] = []
    requests: list[str] = []
    contexts = []

    def open_one(*, dark: bool = False, width: int = 1280, password: str = "") -> Page:
        context = browser.new_context(
            viewport={"width": width, "height": 800},
            color_scheme="dark" if dark else "light",
            http_credentials={"username": "", "password": password} if password else None,
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(10_000)
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: complaints.append(dialog.message))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(fake.url)
        return page

    yield open_one
    for context in contexts:
        context.close()
    # The browser itself tells the console of statuses and of servers that do not answer.
    assert [text for text in complaints if "Failed to load resource" not in text] == []
    assert [url for url in requests if not url.startswith(fake.url)] == []


def card(page: Page, title: str) -> str:
    return page.get_by_label(title, exact=True).first.locator(".card-value").text_content() or ""


def loaded(fake: Fake) -> None:
    fake.observer.loaded(Opened(100, 2048, 16, 16, 200, "all of it"))


def test_numbers_are_live(fake: Fake, open_page: Open) -> None:
    page = open_page()
    state = page.locator(".state")
    expect(state).to_have_text("loading the model")
    expect(page.locator("h1")).to_have_text("tiny")
    loaded(fake)
    fake.observer.stepped(State(running=5, waiting=2, used_blocks=50))
    expect(state).to_have_text("serving")
    batch = page.get_by_label("Batch and queue", exact=True)
    expect(batch).to_contain_text("5 of 16")
    expect(batch).to_contain_text("2 waiting")
    expect(page.get_by_label("KV memory", exact=True)).to_contain_text("50 of 200 blocks of 16")
    assert card(page, "KV memory") == "25 %"

    speed = page.get_by_label("Tokens per second", exact=True).first
    expect(speed.locator(".card-value")).to_have_text("0")
    fake.observer.stepped(
        State(generated_tokens=5000, prompt_tokens=100, prefix_queries=100, prefix_hits=75)
    )
    expect(speed.locator(".card-value")).not_to_have_text("0", timeout=3000)
    expect(page.get_by_label("Prefix cache", exact=True)).to_contain_text("75 %")

    record = fake.observer.arrived("POST")
    generation = record.asked(3)
    for _ in range(3):
        generation.parts([Part("r", 0, (1,))])
    generation.finished(["stop"])
    fake.observer.ended(record)
    expect(page.get_by_label("Time to first token", exact=True).first).to_contain_text("1 request")
    expect(page.get_by_label("Time between tokens", exact=True).first).to_contain_text("2 tokens")
    since = page.get_by_label("Since the server started")
    expect(since.locator("tr", has_text="samples ended by stop")).to_contain_text("1")
    assert page.locator(".line").count() >= 6

    fake.observer.gone()
    expect(state).to_have_text("engine restarts")
    expect(since.locator("tr", has_text="tokens generated")).to_contain_text("5,000")


def test_charts_are_read_with_the_pointer(fake: Fake, open_page: Open) -> None:
    loaded(fake)
    fake.observer.stepped(State(running=7))
    page = open_page()
    chart = page.get_by_label("Sequences that run and wait")
    expect(page.get_by_label("Batch and queue", exact=True)).to_contain_text("7 of 16")
    box = chart.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] - 1, box["y"] + 30)
    expect(page.get_by_label("Batch and queue", exact=True).locator(".reading")).to_have_text(
        re.compile(r"^waiting 0 · running 7, [01] s ago$")
    )


def test_what_was_before_the_page_is_drawn(fake: Fake, open_page: Open) -> None:
    loaded(fake)
    for step in range(3):
        fake.observer.stepped(State(running=9, generated_tokens=100 * step))
        time.sleep(1.1 * (step < 2))
    page = open_page()
    speed = page.get_by_label("Tokens per second", exact=True).first
    expect(speed.locator(".card-value")).not_to_have_text("–")
    path = page.get_by_label("Sequences that run and wait").locator(".line.first")
    assert (path.get_attribute("d") or "").count("L") >= 2  # three seconds of it at least


def test_a_chat_turn(fake: Fake, open_page: Open) -> None:
    loaded(fake)
    page = open_page()
    expect(page.locator(".state")).to_have_text("serving")
    page.get_by_label("Message").fill("Hi <b>you</b>")
    page.keyboard.press("Enter")
    answer = page.locator(".turn.assistant .words")
    expect(answer).to_have_text("Hello there" + HOSTILE)
    expect(page.locator(".turn.assistant .note")).to_contain_text("3 tokens · first after")
    expect(page.locator(".turn.assistant .note")).to_contain_text("cut at the limit")
    expect(page.locator(".turn.user .words")).to_have_text("Hi <b>you</b>")
    assert page.locator("img").count() == 0
    page.get_by_label("Message").fill("And?")
    page.get_by_role("button", name="Send").click()
    expect(page.locator(".turn.assistant")).to_have_count(2)
    expect(answer.nth(1)).to_have_text("Hello there" + HOSTILE)
    assert fake.asked[1]["messages"] == [
        {"role": "user", "content": "Hi <b>you</b>"},
        {"role": "assistant", "content": "Hello there" + HOSTILE},
        {"role": "user", "content": "And?"},
    ]
    assert fake.asked[0]["model"] == "tiny"
    assert fake.asked[0]["stream_options"] == {"include_usage": True}
    page.get_by_role("button", name="New").click()
    expect(page.locator(".turn")).to_have_count(0)


def test_without_a_template_it_continues_text(fake: Fake, open_page: Open) -> None:
    loaded(fake)
    fake.templated = False
    page = open_page()
    expect(page.get_by_label("Chat")).to_contain_text("has no chat template")
    page.get_by_label("Message").fill("def main(")
    page.keyboard.press("Enter")
    expect(page.locator(".turn.assistant .words")).to_have_text("Hello there" + HOSTILE)
    assert fake.asked[0]["prompt"] == "def main("
    assert "messages" not in fake.asked[0]


def test_nobody_talks_to_a_model_that_embeds(fake: Fake, open_page: Open) -> None:
    loaded(fake)
    fake.embeds = True
    page = open_page()
    expect(page.locator(".state")).to_have_text("serving")
    expect(page.locator("#chat")).to_be_hidden()
    expect(page.locator(".jump")).to_be_hidden()
    board, whole = page.locator(".board").bounding_box(), page.viewport_size
    assert board is not None
    assert whole is not None
    assert board["width"] > whole["width"] - 20


def test_stop_lets_the_server_go(fake: Fake, open_page: Open) -> None:
    loaded(fake)
    fake.endless = True
    page = open_page()
    expect(page.locator(".state")).to_have_text("serving")
    page.get_by_label("Message").fill("Hi")
    page.keyboard.press("Enter")
    expect(page.locator(".turn.assistant .words")).to_contain_text("Hello there")
    page.get_by_role("button", name="Stop").click()
    expect(page.locator(".turn.assistant .note")).to_have_text("stopped")
    expect(page.get_by_role("button", name="Send")).to_be_visible()
    deadline = time.monotonic() + 5
    while fake.gone == 0:
        assert time.monotonic() < deadline
        page.wait_for_timeout(20)


def test_a_key_is_asked_for_and_kept_in_memory_alone(fake: Fake, open_page: Open) -> None:
    loaded(fake)
    fake.key = "the-key"
    page = open_page()
    expect(page.locator(".state")).to_have_text("key needed")
    field = page.get_by_label("API key")
    field.fill("not the key")
    page.keyboard.press("Enter")
    expect(page.locator(".key")).to_contain_text("not one of the server's")
    field.fill("the-key")
    page.get_by_role("button", name="Open").click()
    expect(page.locator(".state")).to_have_text("serving")
    expect(page.locator(".key")).to_be_hidden()
    page.get_by_label("Message").fill("Hi")
    page.keyboard.press("Enter")
    expect(page.locator(".turn.assistant .words")).to_contain_text("Hello there")
    kept = page.evaluate(
        "[localStorage.length, sessionStorage.length, document.cookie, location.href,"
        " document.body.outerHTML]"
    )
    assert kept[:3] == [0, 0, ""]
    assert "the-key" not in str(kept)
    page.reload()
    expect(page.locator(".state")).to_have_text("key needed")


def test_the_browser_may_ask_for_the_key(fake: Fake, open_page: Open) -> None:
    loaded(fake)
    fake.guarded = True
    page = open_page(password="the-key")
    expect(page.locator(".state")).to_have_text("serving")
    page.get_by_label("Message").fill("Hi")
    page.keyboard.press("Enter")
    expect(page.locator(".turn.assistant .words")).to_contain_text("Hello there")
    expect(page.locator(".key")).to_be_hidden()


def test_a_server_that_stops_answering_is_said_to(fake: Fake, open_page: Open) -> None:
    loaded(fake)
    page = open_page()
    expect(page.locator(".state")).to_have_text("serving")
    fake.stop()
    expect(page.locator(".state")).to_have_text("no answer")
    page.get_by_label("Message").fill("Hi")
    page.keyboard.press("Enter")
    expect(page.locator(".turn.assistant .note")).to_have_text("the connection broke")


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [360, 820, 1280, 1900])
def test_it_fits_every_screen(fake: Fake, open_page: Open, dark: bool, width: int) -> None:
    loaded(fake)
    page = open_page(dark=dark, width=width)
    expect(page.locator(".state")).to_have_text("serving")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    paper = page.locator("header").evaluate("(e) => getComputedStyle(e).backgroundColor")
    light = min(map(int, paper[4:-1].split(", ")))
    assert light < 64 if dark else light == 255
    chat = page.get_by_label("Chat").bounding_box()
    assert chat is not None
    assert chat["x"] + chat["width"] <= width + 1

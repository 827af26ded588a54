"""A server of OpenAI's protocol that answers when a test says, over real sockets."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec

# Parts of an answer: seconds to wait, and then what is written.
Script = Sequence[tuple[float, bytes]]
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
END = b"0\r\n\r\n"


def event(data: object) -> bytes:
    """One event as a chunk of HTTP."""
    text = data if isinstance(data, bytes) else json.dumps(data).encode()
    return chunk(b"data: " + text + b"\n\n")


def chunk(data: bytes) -> bytes:
    """A chunk of HTTP."""
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


def text(word: str) -> bytes:
    """A word of a completion."""
    return event({"choices": [{"index": 0, "text": word}]})


def usage(prompt: int, completion: int) -> bytes:
    """The last event, and the end."""
    counted = {"prompt_tokens": prompt, "completion_tokens": completion}
    return event({"choices": [], "usage": counted}) + event(b"[DONE]") + END


def answer(words: int = 3, first_s: float = 0.0, gap_s: float = 0.0) -> Script:
    """A whole answer of so many words."""
    waits = [first_s, *[gap_s] * (words - 1)]
    return [(0.0, HEAD), *[(wait, text(" w")) for wait in waits], (0.0, usage(11, words))]


def plain(status: int, body: object) -> bytes:
    """An answer that is not a stream."""
    data = json.dumps(body).encode()
    return (
        f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {len(data)}"
        "\r\n\r\n"
    ).encode() + data


class FakeServer:
    """Answers as ``script`` says.

    Attributes:
        url: where it is.
        script: the answer to every generation.
        tokenizes: whether it has ``/tokenize``; a token is then two characters, ``<s>`` is added.
        asked: bodies of generations.
        heads: head of every request, by lower-case names.
        most: most generations under way.
        connections: made so far.
    """

    def __init__(self) -> None:
        self.url = ""
        self.script: Script = answer()
        self.tokenizes = False
        self.models: object = {"data": [{"id": "tiny"}]}
        self.asked: list[dict[str, Any]] = []
        self.heads: list[Mapping[str, str]] = []
        self.now = self.most = self.connections = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        self.connections += 1
        try:
            while True:
                line, *rows = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")[:-2]
                head = {name.lower(): value for name, value in (row.split(": ", 1) for row in rows)}
                self.heads.append(head)
                body = await reader.readexactly(int(head.get("content-length", "0")))
                await self.reply(line.split(" ")[1], json.loads(body or b"{}"), writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def reply(self, path: str, body: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        """One answer."""
        if path == "/v1/models":
            writer.write(plain(200, self.models))
        elif path in ("/tokenize", "/detokenize") and self.tokenizes:
            writer.write(plain(200, self.tokens(path, body)))
        elif path in ("/v1/completions", "/v1/chat/completions"):
            self.asked.append(body)
            self.now += 1
            self.most = max(self.most, self.now)
            for wait_s, part in self.script:
                if wait_s:
                    await asyncio.sleep(wait_s)
                if part == b"":
                    writer.close()
                    break
                writer.write(part)
                await writer.drain()
            self.now -= 1
        else:
            writer.write(plain(404, {"error": {"message": "no such route"}}))

    def tokens(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Two characters are a token, its number being that of both."""
        if path == "/detokenize":
            return {
                "prompt": "".join(
                    chr(one % 256) + chr(one // 256) * (one > 255) for one in body["tokens"]
                )
            }
        if "messages" in body:
            found = body["messages"][0]["content"]
            return {"tokens": [1, 1, 1, *pairs(found), 1]}
        return {"tokens": [1] * (body.get("add_special_tokens", True)) + pairs(body["prompt"])}


def pairs(text: str) -> list[int]:
    """Tokens of a text of ASCII."""
    cut = [text[place : place + 2] for place in range(0, len(text), 2)]
    return [ord(one[0]) + (256 * ord(one[1]) if len(one) > 1 else 0) for one in cut]


@contextmanager
def fake_server() -> Iterator[FakeServer]:
    """A server in a thread of its own."""
    fake, ready = FakeServer(), threading.Event()
    loop = asyncio.new_event_loop()

    def work() -> None:
        async def start() -> asyncio.Server:
            return await asyncio.start_server(fake.serve, "127.0.0.1", 0)

        server = loop.run_until_complete(start())
        fake.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        ready.set()
        loop.run_forever()
        server.close()
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    assert ready.wait(10)
    yield fake
    loop.call_soon_threadsafe(loop.stop)
    thread.join(10)


def decoded(body: bytes) -> dict[str, Any]:
    """A body as sent."""
    return msgspec.json.decode(body)  # type: ignore[no-any-return]

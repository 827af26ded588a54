"""What HTTP costs: streams from `graphopt serve` beside the same requests through `LLM.generate`.

    python -m benchmarks.serve_overhead ARTIFACT [--rounds 5] [--streams 16] [--tokens 128]

Sixteen requests come at once and stream to their end, all tokens of them. The library has its
engine in its own process and writes no text; the server has two processes, and a client reads what
it writes. Rounds are interleaved. Of the server's HTTP process the CPU time for each token is told,
too. The bars: 95 % of the library's tokens a second on a model of 0.5B, and 0.1 ms of CPU in the
HTTP process for each token on the demo model.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

from benchmarks.harness import summary, write_results

PROMPT_TOKENS = 64
START_S = 300.0
LIBRARY = """
import json, sys, time
import graphopt
asked = json.loads(sys.stdin.readline())
with graphopt.LLM(sys.argv[1]) as llm:
    one = graphopt.SamplingParams(max_tokens=asked["tokens"], temperature=0.0, ignore_eos=True)
    llm.generate(asked["prompts"], one)
    print("ready", flush=True)
    for _ in sys.stdin:
        started = time.perf_counter()
        outputs = llm.generate(asked["prompts"], one)
        seconds = time.perf_counter() - started
        print(json.dumps([seconds, sum(len(o.token_ids) for o in outputs)]), flush=True)
"""


class Library:
    """The requests through ``LLM.generate``, in a process that stays."""

    def __init__(self, artifact: Path, prompts: list[list[int]], tokens: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", LIBRARY, str(artifact)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._send(json.dumps({"prompts": prompts, "tokens": tokens}))
        if self._line() != "ready":
            raise RuntimeError("the library did not start")

    def _send(self, line: str) -> None:
        if self._process.stdin is None:
            raise RuntimeError("there is no pipe")
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def _line(self) -> str:
        return "" if self._process.stdout is None else self._process.stdout.readline().strip()

    def run(self) -> tuple[float, int]:
        """Seconds, and tokens that came."""
        self._send("again")
        seconds, tokens = json.loads(self._line())
        return float(seconds), int(tokens)

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()


async def _stream(host: str, port: int, head: bytes, body: bytes) -> int:
    """Read one answer to its end; the tokens that its usage counts."""
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(head + body)
    tail = b""
    while data := await reader.read(1 << 16):
        tail = (tail + data)[-2000:]
        if tail.endswith(b"0\r\n\r\n"):
            break
    writer.close()
    events = [line for line in tail.split(b"\n") if line.startswith(b"data: {")]
    if b"data: [DONE]" not in tail or not events:
        raise RuntimeError(f"a stream broke: {tail[-300:]!r}")
    return int(json.loads(events[-1][6:])["usage"]["completion_tokens"])


class Server:
    """The requests through ``graphopt serve``, as streams."""

    def __init__(self, artifact: Path, prompts: list[list[int]], tokens: int) -> None:
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            self._port: int = one.getsockname()[1]
        words = ("serve", str(artifact), "--port", str(self._port))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "graphopt", *words],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._cpu = psutil.Process(self._process.pid)
        self._wait()
        self._bodies = []
        for prompt in prompts:
            asked = {
                "prompt": prompt,
                "max_tokens": tokens,
                "temperature": 0,
                "ignore_eos": True,
                "stream": True,
                "stream_options": {"include_usage": True},
            }
            self._bodies.append(json.dumps(asked).encode())
        self.run()

    def _wait(self) -> None:
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/ready", timeout=5):
                    return
            except (OSError, urllib.error.HTTPError):
                time.sleep(0.2)
        raise RuntimeError("the server did not start")

    def run(self) -> tuple[float, int, float]:
        """Seconds, tokens that came, and seconds of CPU in the HTTP process."""
        before = sum(self._cpu.cpu_times()[:2])
        started = time.perf_counter()

        async def all_streams() -> list[int]:
            return await asyncio.gather(
                *(
                    _stream("127.0.0.1", self._port, self._head(len(body)), body)
                    for body in self._bodies
                )
            )

        tokens = sum(asyncio.run(all_streams()))
        seconds = time.perf_counter() - started
        return seconds, tokens, sum(self._cpu.cpu_times()[:2]) - before

    @staticmethod
    def _head(size: int) -> bytes:
        return (
            b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json"
            b"\r\nContent-Length: " + str(size).encode() + b"\r\n\r\n"
        )

    def close(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait(60)


@contextmanager
def running(options: argparse.Namespace) -> Iterator[tuple[Library, Server]]:
    """Both, warmed up."""
    rng = random.Random(options.seed)
    prompts = [
        [rng.randrange(3, 500) for _ in range(PROMPT_TOKENS)] for _ in range(options.streams)
    ]
    library = Library(options.artifact, prompts, options.tokens)
    try:
        server = Server(options.artifact, prompts, options.tokens)
        try:
            yield library, server
        finally:
            server.close()
    finally:
        library.close()


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Interleaved rounds: tokens a second of both, their ratios, and CPU for each token."""
    rates: dict[str, list[float]] = {"library": [], "server": []}
    cpu_ms: list[float] = []
    wanted = options.streams * options.tokens
    with running(options) as (library, server):
        for number in range(options.rounds):
            seconds, tokens = library.run()
            served_s, served, cpu_s = server.run()
            if not tokens == served == wanted:
                raise RuntimeError(f"{tokens} and {served} tokens came, not {wanted}")
            rates["library"].append(tokens / seconds)
            rates["server"].append(served / served_s)
            cpu_ms.append(1000 * cpu_s / served)
            print(
                f"round {number}: library {rates['library'][-1]:.1f}, server "
                f"{rates['server'][-1]:.1f} tokens/s, {cpu_ms[-1]:.3f} ms of CPU a token"
            )
    pairs = zip(rates["server"], rates["library"], strict=True)
    return {
        "tokens a second, library": summary(rates["library"]),
        "tokens a second, server": summary(rates["server"]),
        "server over library": summary([one / other for one, other in pairs]),
        "HTTP process, ms of CPU a token": summary(cpu_ms),
    }


def main() -> None:
    """Command-line entry point."""
    parser = argparse.ArgumentParser(description="What HTTP costs")
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--name", help="of the results' file; the artifact's if left out")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rows = measure(options)
    table = Table("what", "median", "min", "max")
    for name, row in rows.items():
        table.add_row(name, *(f"{row[key]:.3f}" for key in ("median", "min", "max")))
    Console().print(table)
    name = options.name or options.artifact.name.removesuffix(".gopt")
    print(f"written to {write_results(f'cpu/serve_overhead_{name}', rows)}")


if __name__ == "__main__":
    main()

"""A server as users start it: the guide's commands, OpenAI's client, clients that misbehave."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

import graphopt

from .running import Served, served, until

GUIDE = Path(__file__).parents[3] / "docs" / "serving.md"
ADDRESS = "http://127.0.0.1:8000"
TALK: Any = [{"role": "user", "content": "Return the number of"}]


@pytest.fixture(scope="module")
def client(server: Served) -> openai.OpenAI:
    """OpenAI's own."""
    return openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0)


def _blocks(language: str) -> list[str]:
    text = GUIDE.read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


# What a server has to be started as for some of the guide's commands, by a word that is in them.
_APART = {"/v1/embeddings": "embeds", '"tools"': "calls"}


def _run_guide(url: str, kind: str, count: int) -> None:
    """Runs those ``count`` commands and programs of the guide that are for a kind of server."""
    client, *others = _blocks("python")
    commands = [
        ["bash", "-ec", one.replace("curl ", "curl -sS --fail-with-body ")]
        for one in _blocks("sh")
        if one.startswith("curl") and _kind_of(one) == kind
    ]
    if kind == "usual":
        commands.append([sys.executable, "-c", client])
    elif kind == "embeds":
        opened = client.rsplit("print", 1)[0]
        commands += [[sys.executable, "-c", f"{opened}print({one.strip()})"] for one in others]
    assert len(commands) == count
    for command in commands:
        command[-1] = command[-1].replace(ADDRESS, url)
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.strip()
        assert command[0] != "bash" or done.stdout.startswith(("{", "data: {"))


def _kind_of(command: str) -> str:
    return next((kind for word, kind in _APART.items() if word in command), "usual")


def test_the_guide_works_as_written(server: Served) -> None:
    _run_guide(server.url, "usual", 6)


@pytest.mark.full
def test_the_guide_calls_functions_as_written(demo: Path) -> None:
    with served(demo, "--served-model-name", "demo", "--tool-call-parser", "hermes") as found:
        found.ready()
        _run_guide(found.url, "calls", 1)


@pytest.mark.full
def test_the_guide_embeds_as_written(tmp_path: Path) -> None:
    checkpoint = Path(__file__).parents[3] / "examples" / "demo-llama"
    artifact = graphopt.compile_checkpoint(checkpoint, tmp_path / "embed.gopt", task="embed")
    with served(artifact.path, "--served-model-name", "demo") as found:
        found.ready()
        _run_guide(found.url, "embeds", 2)


def test_openais_client_completes_and_streams(client: openai.OpenAI) -> None:
    assert [one.id for one in client.models.list()] == ["demo"]
    assert client.models.retrieve("demo").object == "model"
    asked: dict[str, Any] = {"model": "demo", "prompt": "def read(", "temperature": 0}
    whole = client.completions.create(**asked, max_tokens=12, logprobs=2, echo=True)
    text = whole.choices[0].text
    assert text.startswith("def read(")
    rows = whole.choices[0].logprobs
    assert rows is not None
    assert rows.token_logprobs is not None
    assert rows.token_logprobs[0] is None
    assert all(one <= 0 for one in rows.token_logprobs[1:])
    pieces = client.completions.create(**asked, max_tokens=12, stream=True)
    assert "def read(" + "".join(one.choices[0].text for one in pieces) == text


def test_openais_client_chats_and_streams(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": "demo", "messages": TALK, "temperature": 0, "max_tokens": 8}
    whole = client.chat.completions.create(**asked, logprobs=True, top_logprobs=2)
    choice = whole.choices[0]
    assert choice.message.role == "assistant"
    assert choice.logprobs is not None
    assert choice.logprobs.content is not None
    assert len(choice.logprobs.content) == whole.usage.completion_tokens
    assert (
        b"".join(bytes(one.bytes or ()) for one in choice.logprobs.content)
        .decode()
        .startswith(choice.message.content)
    )
    chunks = list(
        client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True})
    )
    text = "".join(one.choices[0].delta.content or "" for one in chunks if one.choices)
    assert text == choice.message.content
    assert chunks[-1].usage == whole.usage or chunks[-1].usage.total_tokens


def test_a_stop_string_does_not_hide_what_was_cached(server: Served) -> None:
    text = "def read(self, size=-1):\n    return self.buffer.read(size)\n" * 4
    body: dict[str, Any] = {"prompt": text, "max_tokens": 64, "stop": ["e", "a", "\n"]}
    server.complete(**body)
    usage = server.complete(**body).json()["usage"]
    assert usage["completion_tokens"] < 64
    assert usage["prompt_tokens_details"]["cached_tokens"] >= 32
    with server.stream(**body, stream_options={"include_usage": True}) as found:
        last = [line for line in found.iter_lines() if line.startswith("data: {")][-1]
    usage = json.loads(last.removeprefix("data: "))["usage"]
    assert usage["prompt_tokens_details"]["cached_tokens"] >= 32


CASES: list[dict[str, Any]] = [
    {},
    {"stop": ["\n", "self"]},
    {"stop": "a", "include_stop_str_in_output": True, "min_tokens": 9},
    {"stop_token_ids": [12, 265], "ignore_eos": True},
    {"temperature": 0.8, "seed": 5, "n": 3},
    {"repetition_penalty": 1.3, "logit_bias": {"265": -100}},
    {"logprobs": 3, "prompt_logprobs": 2},
    {"allowed_token_ids": list(range(60, 120)), "skip_special_tokens": False},
]


@pytest.fixture(scope="module")
def llm(demo: Path) -> Iterator[graphopt.LLM]:
    """The same model in this process."""
    with graphopt.LLM(demo, threads=1, kv_cache_memory=1 << 24, max_num_seqs=8) as found:
        yield found


@pytest.mark.parametrize("fields", CASES, ids=lambda fields: "-".join(fields) or "plain")
def test_the_server_answers_what_the_library_answers(
    server: Served, llm: graphopt.LLM, fields: dict[str, Any]
) -> None:
    prompt = "def read(self, "
    body = {"temperature": 0, "max_tokens": 24, **fields, "return_token_ids": True}
    found = server.complete(**{"prompt": prompt, **body}).json()["choices"]
    given = {name: value for name, value in body.items() if name != "return_token_ids"}
    if "logit_bias" in given:
        given["logit_bias"] = {int(key): value for key, value in given["logit_bias"].items()}
    (output,) = llm.generate(prompt, llm.sampling_params(**given))
    assert len(found) == len(output.completions)
    for one, expected in zip(found, output.completions, strict=True):
        assert one["text"] == expected.text
        assert one["finish_reason"] == expected.finish_reason
        assert one["stop_reason"] == expected.stop_reason
        # A stop string ends the text here, and the engine that knows it ends there as well.
        assert one["token_ids"] == list(expected.token_ids)
        if "logprobs" in fields:
            rows = one["logprobs"]["token_logprobs"]
            assert rows == pytest.approx([row.logprob for row in expected.logprobs or ()])
            scores = [
                row and row[str(token)]["logprob"]
                for row, token in zip(one["prompt_logprobs"], output.prompt_token_ids, strict=True)
            ]
            assert scores[1:] == pytest.approx(
                [row.logprob for row in output.prompt_logprobs or () if row is not None]
            )


def test_openais_client_has_responses(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": "demo", "input": "Return the number of", "temperature": 0}
    whole = client.responses.create(**asked, max_output_tokens=8)
    events = list(client.responses.create(**asked, max_output_tokens=8, stream=True))
    assert events[0].type == "response.created"
    assert "".join(one.delta for one in events if one.type.endswith(".delta")) == whole.output_text
    assert events[-1].response.usage.output_tokens == whole.usage.output_tokens


def test_openais_client_knows_the_errors(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        client.completions.create(model="other", prompt="a")
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as wrong:
        client.completions.create(model="demo", prompt="a", n=1000)
    assert wrong.value.param == "n"
    with pytest.raises(openai.BadRequestError) as none:
        client.embeddings.create(model="demo", input="a")
    assert none.value.code == "model_generates"


def _state(server: Served) -> dict[str, Any]:
    found: dict[str, Any] = server.get("/stats").json()
    return found


def _metric(server: Served, name: str) -> float:
    text = server.get("/metrics").text
    rows = [line for line in text.splitlines() if line.startswith(name)]
    assert rows, name
    return sum(float(row.rsplit(" ", 1)[1]) for row in rows)


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_away_gives_its_memory_back(server: Served, stream: bool) -> None:
    body = {"prompt": "def read(", "max_tokens": 900, "ignore_eos": True, "stream": stream}
    drawn = _metric(server, "graphopt:generation_tokens_total")
    with socket.create_connection(_address(server)) as connection:
        connection.sendall(_request(body))
        until(lambda: _metric(server, "graphopt:generation_tokens_total") > drawn + 5)
    until(lambda: _metric(server, "graphopt:num_requests_running") == 0)
    assert _metric(server, "graphopt:generation_tokens_total") < drawn + 800


def _address(server: Served) -> tuple[str, int]:
    host, port = server.url.removeprefix("http://").split(":")
    return host, int(port)


def _request(body: dict[str, Any]) -> bytes:
    data = json.dumps(body).encode()
    head = (
        "POST /v1/completions HTTP/1.1\r\nhost: server\r\ncontent-type: application/json\r\n"
        f"content-length: {len(data)}\r\n\r\n"
    )
    return head.encode() + data


@pytest.fixture(scope="module")
def impatient(demo: Path) -> Iterator[Served]:
    """A server that waits for a reader for less than a second."""
    words = ("--max-stall-s", 0.5, "--max-n", 128, "--max-queued", 4096)
    with served(demo, "--served-model-name", "demo", *words) as found:
        found.ready()
        yield found


def test_a_client_that_does_not_read_its_stream_is_dropped(impatient: Served) -> None:
    body = {
        "prompt": "a",
        "max_tokens": 900,
        "ignore_eos": True,
        "stream": True,
        "n": 32,
        "logprobs": 20,
    }
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(_address(impatient))
        connection.sendall(_request(body))
        until(lambda: _metric(impatient, "graphopt:num_requests_running") > 0)
        until(lambda: _metric(impatient, "graphopt:num_requests_running") == 0, 60)
        assert httpx.get(impatient.url + "/health").status_code == 200
        connection.settimeout(10)
        assert not _rest(connection).endswith(b"0\r\n\r\n")


def _rest(connection: socket.socket) -> bytes:
    """What comes until the other side has closed."""
    data, last = b"", b"x"
    while last:
        data, last = data[-64:] + last, connection.recv(1 << 20)
    return data


@pytest.mark.full
def test_a_token_costs_the_http_process_little(server: Served) -> None:
    """At 16 streams, at most 0.1 ms of its processor time for each token."""
    count, tokens = 16, 600

    def seconds() -> float:
        fields = Path(f"/proc/{server.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def run() -> float:
        before = seconds()
        body = {"prompt": "def read(", "max_tokens": tokens, "ignore_eos": True, "stream": True}
        connections = [socket.create_connection(_address(server)) for _ in range(count)]
        for one in connections:
            one.sendall(_request(body))
        for one in connections:
            with one:
                data = b""
                while not data.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n"):
                    data = data[-64:] + one.recv(1 << 16)
        return (seconds() - before) / (count * tokens)

    run()
    each = min(run() for _ in range(3))
    assert each < 100e-6, f"{each * 1e6:.0f} us"

"""A whole server, and what befalls one: signals, deaths, ports in use."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest

from ..native_decoder import write_native
from .running import Served, served, until

LONG = {"max_tokens": 900, "ignore_eos": True}


def test_it_serves_and_says_where(server: Served) -> None:
    line = server.says("info +ready")
    assert "model=demo" in line
    assert "KV 16.0 MiB" in line
    assert server.url.startswith("http://127.0.0.1:")
    assert server.get("/ready").status_code == 200
    one, two = server.complete(), server.complete()
    assert one.status_code == 200
    assert one.json()["choices"] == two.json()["choices"]
    with server.stream(max_tokens=8) as events:
        text = "".join(
            json.loads(line[6:])["choices"][0]["text"]
            for line in events.iter_lines()
            if line.startswith("data: {")
        )
    assert text == one.json()["choices"][0]["text"]


def test_the_http_process_has_imported_no_compiler(server: Served) -> None:
    maps = Path(f"/proc/{server.process.pid}/maps").read_text()
    for name in ("libtorch", "libtriton"):
        assert name not in maps
    code = (
        "import sys; import graphopt.runtime.server.serve, graphopt.cli.serve; "
        "print(sorted({'torch', 'transformers', 'triton'} & sys.modules.keys()))"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_a_client_that_goes_away_frees_its_blocks(server: Served) -> None:
    with server.stream(**LONG) as events:
        next(events.iter_lines())
        assert server.get("/stats").status_code == 200
    until(lambda: "graphopt:num_requests_running" in server.get("/metrics").text)
    until(lambda: _running(server) == 0)


def _running(server: Served) -> float:
    lines = server.get("/metrics").text.splitlines()
    (line,) = [one for one in lines if one.startswith("graphopt:num_requests_running{")]
    return float(line.split()[-1])


def test_killed_in_the_middle_of_a_stream(demo: Path) -> None:
    with served(demo) as server:
        server.ready()
        expected = server.complete().json()["choices"]
        with server.stream(**LONG) as events:
            lines = events.iter_lines()
            assert next(lines).startswith("data: {")
            os.kill(server.engine_pid, signal.SIGKILL)
            rest = [one for one in lines if one.startswith("data: ")]
        assert rest[-1] == "data: [DONE]"
        assert "died" in json.loads(rest[-2][6:])["error"]["message"]
        server.says("killed by SIGKILL")
        assert server.get("/health").status_code == 200
        server.ready(2)
        assert server.get("/ready").status_code == 200
        assert server.complete().json()["choices"] == expected
        assert server.stop() == 0


@pytest.mark.full
def test_while_no_engine_serves_requests_are_told_to_come_again(demo: Path) -> None:
    with served(demo) as server:
        server.listens()
        early = server.get("/ready")
        if "info    ready" not in server.log:
            assert early.status_code == 503
        assert server.get("/health").status_code == 200
        server.ready()
        pid = server.engine_pid
        os.kill(pid, signal.SIGSTOP)  # so that its end takes a moment
        os.kill(pid, signal.SIGKILL)
        answer = server.complete()
        assert answer.status_code in (200, 503)
        if answer.status_code == 503:
            assert int(answer.headers["retry-after"]) > 0


@pytest.mark.full
def test_three_deaths_stop_it_with_the_cause(demo: Path) -> None:
    with served(demo) as server:
        for count in (1, 2, 3):
            server.ready(count)
            os.kill(server.engine_pid, signal.SIGKILL)
        assert server.wait() == 9
        assert "the engine died 3 times within 60 s" in server.log
        assert "killed by SIGKILL" in server.lines[-1] + server.lines[-2] + server.lines[-3]


@pytest.mark.full
def test_an_artifact_that_goes_away_is_named_when_the_engine_has_to_load_it(
    demo: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy.gopt"
    shutil.copytree(demo, copy)
    with served(copy) as server:
        server.ready()
        shutil.rmtree(copy)
        assert server.complete().status_code == 200
        os.kill(server.engine_pid, signal.SIGKILL)
        assert server.wait() == 9
        assert str(copy) in server.log


@pytest.mark.full
def test_an_artifact_that_is_replaced_does_not_answer_with_the_words_of_another(
    demo: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy.gopt"
    shutil.copytree(demo, copy)
    with served(copy) as server:
        server.ready()
        other = write_native(tmp_path / "other.gopt")
        copy.rename(tmp_path / "old.gopt")
        other.path.rename(copy)
        assert server.complete().status_code == 200
        os.kill(server.engine_pid, signal.SIGKILL)
        assert server.wait() == 9
        assert "replaced while it was served" in server.log


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.full)]
)
def test_a_signal_lets_what_runs_finish(demo: Path, number: int) -> None:
    with served(demo, "--drain-seconds", 30) as server:
        server.ready()
        with server.stream(max_tokens=600, ignore_eos=True) as events:
            lines = events.iter_lines()
            next(lines)
            engine = server.engine_pid
            os.kill(engine, signal.SIGSTOP)  # so that the answer does not end yet
            # As a terminal does it, the engine gets the signal too.
            os.kill(engine, number)
            server.process.send_signal(number)
            server.says("draining")
            assert server.get("/ready").status_code == 503
            assert server.complete().status_code == 503
            assert server.get("/health").status_code == 200
            os.kill(engine, signal.SIGCONT)
            data = [one for one in lines if one.startswith("data: ")]
        assert data[-1] == "data: [DONE]"
        assert json.loads(data[-2][6:])["choices"][0]["finish_reason"] == "length"
        assert server.wait() == 0
        assert "error" not in server.log


@pytest.mark.full
def test_draining_has_an_end(demo: Path) -> None:
    with served(demo, "--drain-seconds", 0.2) as server:
        server.ready()
        with server.stream(**LONG) as events:
            lines = events.iter_lines()
            next(lines)
            os.kill(server.engine_pid, signal.SIGSTOP)
            assert server.stop() == 0
            data = [one for one in lines if one.startswith("data: ")]
        assert "error" in json.loads(data[-2][6:])


@pytest.mark.full
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_second_signal_stops_at_once(demo: Path, number: int, code: int) -> None:
    with served(demo) as server:
        server.ready()
        engine = server.engine_pid
        with server.stream(**LONG) as events:
            next(events.iter_lines())
            os.kill(engine, signal.SIGSTOP)  # what runs would never finish
            server.process.send_signal(signal.SIGTERM)
            server.says("draining")
            start = time.monotonic()
            assert server.stop(number) == code
            assert time.monotonic() - start < 10
        assert not Path(f"/proc/{engine}").exists()


@pytest.mark.full
def test_a_signal_while_it_loads(demo: Path) -> None:
    with served(demo) as server:
        server.listens()
        assert server.stop() == 0


@pytest.mark.full
def test_the_engine_does_not_outlive_the_server(demo: Path) -> None:
    with served(demo) as server:
        server.ready()
        engine = server.engine_pid
        server.stop(signal.SIGKILL)
        until(lambda: not Path(f"/proc/{engine}").exists() or _is_zombie(engine))


def _is_zombie(pid: int) -> bool:
    try:
        return "State:\tZ" in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return True


def test_a_port_in_use_is_told_before_anything_is_loaded(demo: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with served(demo, "--port", port) as server:
            assert server.wait() == 9
        assert "the port is in use" in server.log
        assert "checking the artifact" not in server.log


@pytest.mark.full
def test_a_unix_socket(demo: Path, tmp_path: Path) -> None:
    path = tmp_path / "server.sock"
    with served(demo, "--uds", path) as server:
        server.ready()
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(path))) as client:
            assert client.get("http://server/ready").status_code == 200
        with served(demo, "--uds", path) as second:
            assert second.wait() == 9
        assert "listens there already" in second.log
        server.stop(signal.SIGKILL)
        assert path.is_socket(), "it was left behind"
    with served(demo, "--uds", path) as server:
        server.ready()
        assert server.stop() == 0
        assert not path.exists()


@pytest.mark.full
def test_no_artifact_and_a_damaged_one(demo: Path, tmp_path: Path) -> None:
    with served(tmp_path / "none.gopt") as server:
        assert server.wait() == 6
    copy = tmp_path / "copy.gopt"
    shutil.copytree(demo, copy)
    weights = next((copy / "weights").iterdir())
    data = bytearray(weights.read_bytes())
    data[-100] ^= 1
    weights.write_bytes(data)
    with served(copy) as server:
        assert server.wait() == 6
        assert weights.name in server.log


@pytest.mark.full
def test_too_little_memory_is_told_with_the_knob(demo: Path) -> None:
    with served(demo, "--kv-cache-memory", "1KiB") as server:
        assert server.wait() == 9
        assert "kv_cache_memory" in server.log or "--kv-cache-memory" in server.log


@pytest.mark.full
def test_a_closed_stdout_and_a_closed_stderr_matter_to_nobody(demo: Path) -> None:
    with served(demo) as server:
        server.process.stdout.close()
        server.listens()
        server.process.stderr.close()
        until(lambda: server.get("/ready").status_code == 200)
        assert server.complete().status_code == 200
        os.kill(server.engine_pid, signal.SIGKILL)
        until(lambda: server.get("/ready").status_code == 503)
        until(lambda: server.get("/ready").status_code == 200)
        assert server.complete().status_code == 200
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(30) == 0


@pytest.mark.full
def test_the_key_is_asked_for_and_not_shown(demo: Path) -> None:
    with served(demo, GRAPHOPT_API_KEY="first second") as server:
        server.ready()
        assert server.complete().status_code == 401
        for key in ("first", "second"):
            answer = server.get("/v1/models", headers={"authorization": f"Bearer {key}"})
            assert answer.status_code == 200
        assert server.get("/ready").status_code == 200
        assert "first" not in server.log


def test_many_at_once_are_all_answered(server: Served) -> None:
    expected = server.complete(max_tokens=24, ignore_eos=True).json()["choices"]
    found: list[object] = []

    def ask() -> None:
        found.append(server.complete(max_tokens=24, ignore_eos=True).json()["choices"])

    threads = [threading.Thread(target=ask) for _ in range(24)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert found == [expected] * 24


@pytest.mark.full
def test_a_thousand_connections_that_ask_nothing_stop_nobody(demo: Path) -> None:
    """Some say nothing, some a byte from time to time; each goes when its head is late."""
    with served(demo, "--max-head-s", 3) as server:
        server.ready()
        host, port = server.url.removeprefix("http://").split(":")
        held = [socket.create_connection((host, int(port))) for _ in range(1000)]
        for number, one in enumerate(held):
            if number % 2:
                one.sendall(b"POST /v1/completions HTTP/1.1\r\nhost: a\r\n")
        assert server.complete().status_code == 200
        closed = 0
        deadline = time.monotonic() + 20
        while closed < len(held) and time.monotonic() < deadline:
            closed = 0
            for one in held:
                one.setblocking(False)
                try:
                    closed += not one.recv(1 << 12, socket.MSG_PEEK) or not one.send(b"x")
                except BlockingIOError:
                    continue
                except OSError:
                    closed += 1
            assert server.complete(max_tokens=1).status_code == 200
        for one in held:
            one.close()
        assert closed == 1000


@pytest.mark.full
def test_beyond_the_most_connections_one_is_refused_and_the_rest_go_on(demo: Path) -> None:
    with served(demo, "--max-connections", 20, "--max-head-s", 30) as server:
        server.ready()
        host, port = server.url.removeprefix("http://").split(":")
        held = [socket.create_connection((host, int(port))) for _ in range(20)]
        until(lambda: server.get("/health").status_code == 503)
        held.pop().close()
        until(lambda: server.get("/health").status_code == 200)
        for one in held:
            one.close()


@pytest.mark.full
def test_killed_again_and_again_every_request_ends(demo: Path) -> None:
    """Readers of streams and of whole answers, while the engine dies some times."""
    with served(demo) as server:
        server.ready()
        expected = server.complete(max_tokens=60, ignore_eos=True).json()["choices"]
        outcomes: list[str] = []
        done = threading.Event()

        def ask() -> None:
            while not done.is_set():
                answer = server.complete(max_tokens=60, ignore_eos=True)
                if answer.status_code == 200:
                    assert answer.json()["choices"] == expected
                outcomes.append(str(answer.status_code))

        def read() -> None:
            while not done.is_set():
                with server.stream(max_tokens=60, ignore_eos=True) as events:
                    lines = [one for one in events.iter_lines() if one]
                outcomes.append("stream" if lines[-1] == "data: [DONE]" else lines[-1])

        threads = [threading.Thread(target=one) for one in (ask, ask, ask, read, read, read)]
        for one in threads:
            one.start()
        for count in (2, 3):
            time.sleep(1)
            os.kill(server.engine_pid, signal.SIGKILL)
            start = time.monotonic()
            server.ready(count)
            assert time.monotonic() - start < 30
        time.sleep(1)
        done.set()
        for one in threads:
            one.join(60)
            assert not one.is_alive()
        assert {"200", "503", "stream"} <= set(outcomes)
        assert _running(server) == 0
        assert server.stop() == 0

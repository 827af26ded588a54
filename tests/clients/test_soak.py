"""Minutes of load on a server, on purpose: nothing is lost, nothing grows, nothing stays behind."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

import graphopt
from tests.clients.load import load
from tests.clients.served import Served, fetch, serve

KEY = "a-key-for-the-soak"
REQUESTS = int(os.environ.get("GRAPHOPT_SOAK_REQUESTS", "20000"))
KILLS = int(os.environ.get("GRAPHOPT_SOAK_KILLS", "4"))
DEMO = Path(__file__).parents[2] / "examples" / "demo-llama"

pytestmark = pytest.mark.soak


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("soak") / "demo.gopt"
    graphopt.compile_checkpoint(DEMO, output=folder)
    return folder


def engine_of(served: Served) -> psutil.Process:
    """The process that computes."""
    children = psutil.Process(served.process.pid).children()
    (found,) = [one for one in children if any("engine_process" in word for word in one.cmdline())]
    return found


@contextmanager
def weighed(served: Served) -> Iterator[list[int]]:
    """Memory of both processes in bytes, twice a second."""
    sizes: list[int] = []
    done = threading.Event()
    processes = [psutil.Process(served.process.pid), engine_of(served)]

    def look() -> None:
        while not done.wait(0.5):
            sizes.append(sum(one.memory_info().rss for one in processes))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield sizes
    finally:
        done.set()
        thread.join()


def metric(served: Served, name: str) -> float:
    """The sum of a metric's samples."""
    import urllib.request

    request = urllib.request.Request(
        f"{served.url}/metrics", headers={"Authorization": f"Bearer {KEY}"}
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        text = answer.read().decode()
    found = re.findall(rf"^{re.escape(name)}(?:{{[^}}]*}})? (\S+)$", text, re.M)
    assert found, name
    return sum(map(float, found))


def test_twenty_thousand_requests_leave_nothing_behind(artifact: Path) -> None:
    with serve(artifact, "--api-key", KEY) as served:
        asyncio.run(load(served.url, KEY, served.model, 500, seed=1))  # buffers reach their size
        started = time.monotonic()
        with weighed(served) as sizes:
            tally = asyncio.run(load(served.url, KEY, served.model, REQUESTS, seed=2))
        seconds = time.monotonic() - started
        half = sizes[len(sizes) // 2 :]
        drift = (max(half) - min(half)) / max(half)
        print(f"{dict(tally.ends)} in {seconds:.0f} s, {max(half) >> 20} MiB, drift {drift:.1%}")
        assert tally.faults == []
        assert tally.answered + tally.ends["left"] == REQUESTS
        assert drift < 0.05
        deadline = time.monotonic() + 5
        while metric(served, "graphopt:num_requests_running") and time.monotonic() < deadline:
            time.sleep(0.1)
        for name in ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc"):
            assert metric(served, f"graphopt:{name}") == 0.0


def test_service_returns_after_every_kill(artifact: Path) -> None:
    with serve(artifact, "--api-key", KEY) as served:
        back: list[float] = []

        def kill() -> None:
            for _ in range(KILLS):
                time.sleep(61)
                engine_of(served).send_signal(signal.SIGKILL)
                gone = time.monotonic()
                while fetch(f"{served.url}/ready")[0] == 200 and time.monotonic() < gone + 1:
                    time.sleep(0.005)
                while fetch(f"{served.url}/ready")[0] != 200 and time.monotonic() < gone + 60:
                    time.sleep(0.05)
                back.append(time.monotonic() - gone)

        killer = threading.Thread(target=kill)
        killer.start()
        ends: dict[str, int] = {}
        faults: list[str] = []
        seed = 0
        while killer.is_alive():
            seed += 1
            tally = asyncio.run(load(served.url, KEY, served.model, 400, seed=seed))
            faults += tally.faults
            for name, count in tally.ends.items():
                ends[name] = ends.get(name, 0) + count
        print(f"{ends}, back after {[f'{one:.1f} s' for one in back]}")
        assert faults == []
        assert ends.keys() <= {"whole", "streamed", "left", "broken", "status 503"}
        assert len(back) == KILLS
        assert max(back) < 5
        calm = asyncio.run(load(served.url, KEY, served.model, 200, seed=0))
        assert calm.faults == []
        assert calm.answered + calm.ends["left"] == 200

"""One engine process as its parent holds it."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from graphopt.errors import ArtifactError, EngineGoneError
from graphopt.runtime.server import child
from graphopt.runtime.server.child import Child, Output
from graphopt.runtime.server.engine_client import EngineClient, Link
from graphopt.runtime.server.wire import Open

from .running import SMALL


def test_what_it_printed_explains_its_death(demo: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def check() -> None:
        found = await Child.start(EngineClient(), Open(str(demo), SMALL))
        await asyncio.wait_for(found.link.opened, 60)
        assert os.getsid(found.pid) == found.pid, "ctrl-C at the terminal does not reach it"
        os.kill(found.pid, signal.SIGSEGV)
        cause = await found.end()
        assert isinstance(cause, EngineGoneError)
        assert "killed by SIGSEGV" in cause.got
        assert "engine_process.py" in cause.got, "the fault handler says where it was"
        assert "Fatal Python error" in caplog.text

    asyncio.run(check())


def test_what_it_said_before_it_left_is_the_reason() -> None:
    async def check() -> None:
        found = await Child.start(EngineClient(), Open("/nowhere/model.gopt"))
        cause = await found.end()
        assert isinstance(cause, ArtifactError)
        assert found.link.opened.cancelled()
        found.kill()

    asyncio.run(check())


def test_a_process_that_outlives_its_connection_is_killed(
    demo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child, "LEAVE_S", 0.3)

    async def check() -> None:
        found = await Child.start(EngineClient(), Open(str(demo), SMALL))
        await asyncio.wait_for(found.link.opened, 60)
        os.kill(found.pid, signal.SIGSTOP)
        found.link.drop()
        cause = await asyncio.wait_for(found.end(), 20)
        assert "SIGKILL" in cause.got

    asyncio.run(check())


def test_a_process_that_leaves_a_child_behind_is_over_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(child, "LEAVE_S", 0.3)
    code = (
        "import subprocess, sys; "
        "print(subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']).pid)"
    )

    async def check() -> None:
        output = await Output.open()
        with output.writer as writer:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-c", code, stdout=writer
            )
        link = Link(EngineClient())
        link.lost.set_result(None)
        cause = await asyncio.wait_for(Child(process, link, output).end(), 20)
        assert cause.got.startswith("exit code 0\n")
        os.kill(int(cause.got.split()[-1]), signal.SIGKILL)

    asyncio.run(check())


def test_keys_of_the_server_are_not_in_its_environment(
    demo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRAPHOPT_API_KEY", "secret")

    async def check() -> None:
        found = await Child.start(EngineClient(), Open(str(demo), SMALL))
        await asyncio.wait_for(found.link.opened, 60)
        assert b"secret" not in Path(f"/proc/{found.pid}/environ").read_bytes()
        found.kill()
        await found.end()

    asyncio.run(check())

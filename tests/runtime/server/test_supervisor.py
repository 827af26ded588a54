"""Engines that die: what becomes of their requests, and when the next one serves."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import time
from pathlib import Path

import pytest

from graphopt.errors import ArtifactError, EngineGoneError, MachineError
from graphopt.runtime.server import supervisor
from graphopt.runtime.server.engine_client import EngineClient
from graphopt.runtime.server.supervisor import Supervisor

from .running import SMALL, Running, running_engine, tokens_of

GREEDY = {"temperature": 0.0, "max_tokens": 16, "ignore_eos": True}
LONG = {**GREEDY, "max_tokens": 900}


def _ask(running: Running, name: str, params: dict = GREEDY) -> asyncio.Task[list[int]]:
    return asyncio.create_task(tokens_of(running.client.submit(name, [5, 6, 7], params)))


def test_killed_in_the_middle_of_its_answers_it_serves_again(demo: Path) -> None:
    async def check() -> None:
        async with running_engine(demo) as running:
            expected = await _ask(running, "before")
            answers = [running.client.submit(f"{number}", [5], LONG) for number in range(8)]
            for answer in answers:
                await anext(answer)
            killed = running.supervisor.pid
            os.kill(killed, signal.SIGKILL)
            start = time.monotonic()
            for answer in answers:
                with pytest.raises(EngineGoneError, match="died"):
                    await tokens_of(answer)
            assert running.client.model is None
            with pytest.raises(EngineGoneError):
                running.client.submit("meanwhile", [5], GREEDY)
            await running.opened()
            assert running.supervisor.pid != killed
            assert await _ask(running, "after") == expected
            assert time.monotonic() - start < 30
            assert not Path(f"/proc/{killed}").exists(), "it was waited for"

    asyncio.run(check())


def test_three_deaths_in_a_minute_end_it_with_the_cause(demo: Path) -> None:
    async def check() -> None:
        async with running_engine(demo) as running:
            for _ in range(2):
                os.kill(running.supervisor.pid, signal.SIGKILL)
                await running.opened()
            os.kill(running.supervisor.pid, signal.SIGKILL)
            with pytest.raises(MachineError, match="died 3 times within 60 s") as caught:
                await asyncio.wait_for(running.task, 30)
            assert "SIGKILL" in caught.value.got
            assert running.client.model is None

    asyncio.run(check())


@pytest.mark.full
def test_deaths_that_are_far_apart_are_forgiven(
    demo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "WITHIN_S", 0.001)

    async def check() -> None:
        async with running_engine(demo) as running:
            for _ in range(3):
                os.kill(running.supervisor.pid, signal.SIGKILL)
                await running.opened()
            assert len(await _ask(running, "after")) == 16

    asyncio.run(check())


def test_what_is_wrong_from_the_start_is_told_at_once(tmp_path: Path) -> None:
    async def check() -> None:
        keeper = Supervisor(EngineClient(), tmp_path / "none.gopt", SMALL)
        with pytest.raises(ArtifactError):
            await asyncio.wait_for(keeper.run(), 30)

    asyncio.run(check())


@pytest.mark.full
def test_an_artifact_that_is_deleted_is_named(demo: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.gopt"
    shutil.copytree(demo, copy)

    async def check() -> None:
        async with running_engine(copy) as running:
            shutil.rmtree(copy)
            assert len(await _ask(running, "still")) == 16, "what is mapped stays"
            os.kill(running.supervisor.pid, signal.SIGKILL)
            with pytest.raises(MachineError, match="died 3 times") as caught:
                await asyncio.wait_for(running.task, 30)
            assert "copy.gopt" in caught.value.got
            assert isinstance(caught.value.__cause__, ArtifactError)

    asyncio.run(check())


def test_an_engine_that_hangs_is_ended(demo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "TICK_S", 0.05)

    async def check() -> None:
        async with running_engine(demo, silence_s=0.5) as running:
            await asyncio.sleep(0.7)
            assert running.client.model is not None, "without work it may be silent"
            os.kill(running.supervisor.pid, signal.SIGSTOP)
            answer = running.client.submit("stuck", [5], LONG)
            dropped = running.client.submit("dropped", [5], LONG)
            dropped.abort()
            assert await tokens_of(dropped) == []
            with pytest.raises(EngineGoneError, match="died"):
                await asyncio.wait_for(tokens_of(answer), 20)
            await running.opened()
            assert len(await _ask(running, "after")) == 16

    asyncio.run(check())


@pytest.mark.parametrize("grace_s", [0.0, 10.0])
def test_it_stops_while_the_engine_works(demo: Path, grace_s: float) -> None:
    async def check() -> None:
        async with running_engine(demo) as running:
            pid = running.supervisor.pid
            answer = running.client.submit("long", [5], LONG)
            await anext(answer)
            await asyncio.wait_for(running.supervisor.stop(grace_s), 20)
            await asyncio.wait_for(running.task, 20)
            with pytest.raises(EngineGoneError):
                await tokens_of(answer)
            assert not Path(f"/proc/{pid}").exists()

    asyncio.run(check())


def test_it_stops_while_the_engine_is_stopped(demo: Path) -> None:
    async def check() -> None:
        async with running_engine(demo) as running:
            os.kill(running.supervisor.pid, signal.SIGSTOP)
            start = time.monotonic()
            await running.supervisor.stop(0.3)
            await asyncio.wait_for(running.task, 20)
            assert time.monotonic() - start < 10

    asyncio.run(check())


@pytest.mark.parametrize("delay_s", [0.0, 0.05, 0.2])
def test_it_stops_while_the_engine_loads(demo: Path, delay_s: float) -> None:
    async def check() -> None:
        keeper = Supervisor(EngineClient(), demo, SMALL)
        task = asyncio.create_task(keeper.run())
        await asyncio.sleep(delay_s)
        await keeper.stop(10)
        await asyncio.wait_for(task, 20)

    asyncio.run(check())

"""The HTTP process's side of the wire, against an engine that says what a test wants it to."""

from __future__ import annotations

import asyncio
import gc
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from graphopt.errors import ArtifactError, CapacityError, EngineGoneError, RequestError
from graphopt.runtime.outputs import RequestMetrics
from graphopt.runtime.server.client import Answer, Client
from graphopt.runtime.server.engine_client import EngineClient, Link
from graphopt.runtime.server.observer import Observer
from graphopt.runtime.server.wire import (
    Abort,
    Close,
    Embed,
    Ended,
    Failed,
    FromEngine,
    Inbox,
    Loading,
    Open,
    Opened,
    Part,
    Progress,
    State,
    Submit,
    ToEngine,
    WireError,
    encode,
)

from .running import tokens_of

OPENED = Opened(100, 64, 8, 4, 32, "little")
METRICS = RequestMetrics(1.0, 2.0, 3.0)


class Script:
    """The engine's end of the connection."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.inbox = Inbox(ToEngine)
        self.heard: list[ToEngine] = []

    async def say(self, *messages: FromEngine) -> None:
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(self.sock, b"".join(encode(one) for one in messages))

    async def hear(self, count: int = 1) -> list[ToEngine]:
        while len(self.heard) < count:
            data = await asyncio.get_running_loop().sock_recv(self.sock, 1 << 16)
            self.heard += self.inbox.push(data)
        found, self.heard = self.heard[:count], self.heard[count:]
        return found

    async def step(
        self, *parts: Part, ended: tuple[Ended, ...] = (), state: State | None = None
    ) -> None:
        await self.say(Progress(list(parts), list(ended), state or State()))


@asynccontextmanager
async def connected(
    *, opened: bool = True, observer: Observer | None = None
) -> AsyncIterator[tuple[EngineClient, Script, Link]]:
    client = EngineClient(observer)
    ours, theirs = socket.socketpair()
    with theirs:
        script = Script(theirs)
        link = await client.connect(ours, Open("model.gopt", {"seed": 1}))
        assert await script.hear() == [Open("model.gopt", {"seed": 1})]
        if opened:
            await script.say(Loading("weights", 1, 2), OPENED)
            assert await link.opened == OPENED
        yield client, script, link
        link.drop()


def test_as_the_protocols_have_it() -> None:
    async def check() -> None:
        async with connected() as (client, script, _):
            known: Client = client
            answer: Answer = known.submit("a", [1, 2], {"n": 1}, priority=3, cache_salt=b"s")
            assert await script.hear() == [Submit("a", [1, 2], {"n": 1}, 3, b"s")]
            assert known.model == OPENED
            assert answer.ended is None
            state = State(running=1, generated_tokens=5)
            await script.step(Part("a", 0, (7,)), Part("a", 1, (8,)), state=state)
            assert await anext(answer) == [Part("a", 0, (7,)), Part("a", 1, (8,))]
            assert known.state == state
            end = Ended("a", METRICS)
            await script.step(Part("a", 0, (9,), None, "length"), ended=(end,))
            assert [one async for one in answer] == [[Part("a", 0, (9,), None, "length")]]
            assert answer.ended == end
            assert client.num_unfinished == 0
            with pytest.raises(StopAsyncIteration):
                await anext(answer)

    asyncio.run(check())


def test_a_vector_comes_with_the_end() -> None:
    async def check() -> None:
        async with connected() as (client, script, _):
            known: Client = client
            answer: Answer = known.embed("a", [1, 2], priority=-1)
            assert await script.hear() == [Embed("a", [1, 2], -1)]
            with pytest.raises(RequestError, match="in use"):
                client.embed("a", [1])
            await script.step(ended=(Ended("a", METRICS, vector=b"abcd"),))
            assert [one async for one in answer] == []
            assert answer.ended is not None
            assert answer.ended.vector == b"abcd"
            client.embed("b", [3]).abort()
            assert await script.hear(2) == [Embed("b", [3]), Abort("b")]

    asyncio.run(check())


def test_parts_that_pile_up_are_given_at_once() -> None:
    async def check() -> None:
        async with connected() as (client, script, _):
            slow, quick = client.submit("slow", [1], {}), client.submit("quick", [1], {})
            for number in range(50):
                await script.step(Part("slow", 0, (number,)), Part("quick", 0, (number,)))
                assert (await anext(quick))[0].token_ids == (number,)
            assert [one.token_ids[0] for one in await anext(slow)] == list(range(50))

    asyncio.run(check())


def test_a_request_raises_what_it_failed_with_after_its_parts() -> None:
    async def check() -> None:
        async with connected() as (client, script, _):
            answer = client.submit("a", [1], {})
            error = WireError.of(CapacityError("too long", got=9))
            await script.step(
                Part("a", 0, (7,), None, "abort"), ended=(Ended("a", METRICS, None, error),)
            )
            assert len(await anext(answer)) == 1
            with pytest.raises(CapacityError, match="too long"):
                await anext(answer)
            with pytest.raises(StopAsyncIteration):
                await anext(answer)
            assert answer.ended is not None

    asyncio.run(check())


def test_an_abort_is_sent_once_and_ends_the_reader() -> None:
    async def check() -> None:
        async with connected() as (client, script, _):
            answer = client.submit("a", [1], {})
            reader = asyncio.create_task(tokens_of(answer))
            await script.hear()
            await script.step(Part("a", 0, (7,)))
            answer.abort()
            answer.abort()
            assert await script.hear() == [Abort("a")]
            assert not reader.done()  # how it ended, the engine has yet to say
            with pytest.raises(RequestError, match="in use"):
                client.submit("a", [1], {})  # until the engine has let it go
            await script.step(Part("a", 0, (8,)), ended=(Ended("a", METRICS),))
            await client.until_idle()
            assert await reader in ([7], [])
            assert answer.ended == Ended("a", METRICS)
            assert [one async for one in answer] == []
            client.submit("a", [1], {})
            assert (await script.hear())[0] == Submit("a", [1], {})

    asyncio.run(check())


@pytest.mark.parametrize("said", [None, Failed(WireError("ArtifactError", "it is damaged"))])
def test_the_engines_death_ends_every_request(said: FromEngine | None) -> None:
    async def check() -> None:
        async with connected() as (client, script, link):
            answers = [client.submit(f"{number}", [1], {}) for number in range(3)]
            answers[2].abort()
            await script.step(Part("0", 0, (7,)))
            if said is not None:
                await script.say(said)
            script.sock.close()
            cause = await link.lost
            assert client.model is None
            assert client.num_unfinished == 0
            assert (await anext(answers[0]))[0].token_ids == (7,)
            for answer in answers[:2]:
                with pytest.raises(EngineGoneError, match="died") as caught:
                    await anext(answer)
                assert ("damaged" in str(caught.value)) == (said is not None)
            assert [one async for one in answers[2]] == []
            with pytest.raises(EngineGoneError, match="no engine"):
                client.submit("late", [1], {})
            assert isinstance(cause, ArtifactError) == (said is not None)
            answers[0].abort()
            client.close()

    asyncio.run(check())


def test_what_an_older_engine_leaves_does_not_touch_the_next() -> None:
    async def check() -> None:
        async with connected() as (client, _, old):
            client.submit("a", [1], {})
            old.drop()
            await old.lost
            ours, theirs = socket.socketpair()
            with theirs:
                script = Script(theirs)
                link = await client.connect(ours, Open("model.gopt"))
                assert client.model is None
                await script.say(OPENED)
                await link.opened
                answer = client.submit("a", [2], {})
                old.drop()
                await script.step(Part("a", 0, (5,)), ended=(Ended("a", METRICS),))
                assert await tokens_of(answer) == [5]
                link.drop()

    asyncio.run(check())


def test_no_request_before_the_model_is_loaded() -> None:
    async def check() -> None:
        async with connected(opened=False) as (client, script, link):
            assert client.model is None
            with pytest.raises(EngineGoneError, match="no engine"):
                client.submit("a", [1], {})
            await script.say(OPENED)
            await link.opened
            running = client.submit("a", [1], {})
            idle = asyncio.create_task(client.until_idle())
            await asyncio.sleep(0)
            assert not idle.done()
            await script.step(Part("a", 0, (3,)), ended=(Ended("a", METRICS),))
            await asyncio.wait_for(idle, 5)
            assert await tokens_of(running) == [3]
            await script.hear()
            client.close()
            assert await script.hear() == [Close()]

    asyncio.run(check())


class Hears(Observer):
    """Writes down what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[object] = []

    def loaded(self, model: Opened) -> None:
        self.heard.append(model)

    def stepped(self, state: State) -> None:
        self.heard.append(state)

    def gone(self) -> None:
        self.heard.append("gone")


def test_an_observer_hears_of_the_engines_life() -> None:
    async def check() -> None:
        observer = Hears()
        async with connected(observer=observer) as (client, script, link):
            state = State(running=2)
            await script.step(state=state)
            script.sock.close()
            await link.lost
            assert client.state == State()
        assert observer.heard == [OPENED, state, "gone"]

    asyncio.run(check())


def test_nonsense_from_the_engine_ends_the_connection() -> None:
    async def check() -> None:
        async with connected() as (client, script, link):
            answer = client.submit("a", [1], {})
            await asyncio.get_running_loop().sock_sendall(script.sock, b"\0\0\0\2??")
            cause = await asyncio.wait_for(link.lost, 5)
            assert "cannot be read" in str(cause)
            with pytest.raises(EngineGoneError, match="died"):
                await anext(answer)

    asyncio.run(check())


def test_silence_is_measured_only_while_there_is_work() -> None:
    async def check() -> None:
        async with connected() as (client, script, _):
            assert client.silent_s == 0
            client.submit("a", [1], {})
            await asyncio.sleep(0.05)
            assert client.silent_s >= 0.04
            await script.step(ended=(Ended("a", METRICS),))
            await client.until_idle()
            assert client.silent_s == 0

    asyncio.run(check())


@pytest.mark.parametrize(("prompt", "params"), [([2**70], {}), ([1], {"seed": object()})])
def test_what_has_no_place_in_a_message_is_refused(prompt: list[int], params: dict) -> None:
    async def check() -> None:
        async with connected() as (client, _, _link):
            with pytest.raises(RequestError, match="cannot be sent"):
                client.submit("a", prompt, params)
            assert client.num_unfinished == 0

    asyncio.run(check())


def test_no_request_has_a_task_here() -> None:
    async def check() -> None:
        async with connected() as (client, _, _link):
            before = len(asyncio.all_tasks())
            answers = [client.submit(f"{number}", [1], {}) for number in range(100)]
            assert len(asyncio.all_tasks()) == before
            del answers
            gc.collect()

    asyncio.run(check())


def _run(check: Callable[[], Awaitable[None]]) -> None:
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(check())


def test_with_uvloop_too() -> None:
    async def check() -> None:
        async with connected() as (client, script, link):
            answer = client.submit("a", [1], {})
            await script.step(Part("a", 0, (7,)))
            assert (await anext(answer))[0].token_ids == (7,)
            script.sock.close()
            await asyncio.wait_for(link.lost, 5)
            with pytest.raises(EngineGoneError):
                await anext(answer)

    _run(check)

"""All requests at their times, and how well the client kept to them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from .outcome import Outcome

TICK_S = 0.01


@dataclass(frozen=True, slots=True)
class Planned:
    """A request to come.

    Attributes:
        at_s: when, from the start.
        prompt: its text.
        prompt_tokens: its length, as far as it is known.
        output_tokens: how many tokens to ask for.
    """

    at_s: float
    prompt: str
    prompt_tokens: int
    output_tokens: int


@dataclass(frozen=True, slots=True)
class Effort:
    """What the load cost the client itself.

    Attributes:
        cpu_s: processor time.
        wall_s: how long the run was.
        lags_s: how late the event loop came to a timer, every hundredth of a second.
    """

    cpu_s: float
    wall_s: float
    lags_s: Sequence[float]


async def run_load(
    ask: Callable[[str, int, int], Awaitable[Outcome]],
    plan: Sequence[Planned],
    *,
    max_concurrency: int | None = None,
    duration_s: float | None = None,
    on_end: Callable[[Outcome], None] = lambda outcome: None,
) -> tuple[list[Outcome], Effort]:
    """Send every request when its time has come and there is room for it; wait for all answers.

    Args:
        ask: sends one request and reads its answer.
        plan: the requests in the order of their times.
        max_concurrency: most requests under way; others wait here, unsent.
        duration_s: nothing is sent after so many seconds.
        on_end: told of each answer.

    Returns:
        What became of the requests, in the order in which they were sent.
    """
    room = asyncio.Semaphore(max_concurrency or len(plan) or 1)
    tasks: list[asyncio.Task[Outcome]] = []
    lags: list[float] = []
    ticking = asyncio.create_task(_tick(lags))
    began, cpu = time.perf_counter(), time.process_time()

    async def one(planned: Planned, late_s: float) -> Outcome:
        sent_s = time.perf_counter() - began
        try:
            outcome = await ask(planned.prompt, planned.prompt_tokens, planned.output_tokens)
        finally:
            room.release()
        outcome.sent_s, outcome.late_s = sent_s, late_s
        on_end(outcome)
        return outcome

    try:
        for planned in plan:
            wait_s = planned.at_s - (time.perf_counter() - began)
            if duration_s is not None and planned.at_s > duration_s:
                break
            if wait_s > 0:
                await asyncio.sleep(wait_s)
            await room.acquire()
            now_s = time.perf_counter() - began
            if duration_s is not None and now_s > duration_s:
                break
            tasks.append(asyncio.create_task(one(planned, now_s - planned.at_s)))
        outcomes = list(await asyncio.gather(*tasks))
    finally:
        ticking.cancel()
        for task in tasks:
            task.cancel()
    return outcomes, Effort(time.process_time() - cpu, time.perf_counter() - began, lags)


async def _tick(lags: list[float]) -> None:
    """Note how late each tick is."""
    while True:
        before = time.perf_counter()
        await asyncio.sleep(TICK_S)
        lags.append(time.perf_counter() - before - TICK_S)

"""Requests of mixed kinds and lengths against a server, many at once, some left in the middle."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from dataclasses import dataclass, field

import httpx

TIMEOUT_S = 60.0


@dataclass(slots=True)
class Tally:
    """How requests ended.

    Attributes:
        ends: by kind: ``whole`` and ``streamed`` answers, ``left`` ones, ``status 503`` and the
            like, ``broken`` streams and connections.
        faults: sentences about answers that are not what they should be.
    """

    ends: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)

    @property
    def answered(self) -> int:
        """Requests that were answered to their end."""
        return self.ends["whole"] + self.ends["streamed"]


def request_of(rng: random.Random, model: str) -> tuple[str, dict[str, object]]:
    """A random request: its path and its body."""
    tokens = rng.choice([1, 2, 4, 8, 16, 32, 64])
    body: dict[str, object] = {
        "model": model,
        "max_tokens": tokens,
        "temperature": rng.choice([0.0, 0.8]),
        "ignore_eos": rng.random() < 0.5,
        "stream": rng.random() < 0.6,
    }
    if body["stream"]:
        body["stream_options"] = {"include_usage": True}
    if rng.random() < 0.3:
        words = " ".join(rng.choices(("read", "os", "path", "list", "of"), k=rng.randint(1, 40)))
        return "/v1/chat/completions", {**body, "messages": [{"role": "user", "content": words}]}
    prompt = [rng.randrange(3, 500) for _ in range(rng.choice([1, 7, 30, 100, 300]))]
    return "/v1/completions", {**body, "prompt": prompt, "n": rng.choice([1, 1, 1, 2])}


async def ask(
    client: httpx.AsyncClient, path: str, body: dict[str, object], leave_after: int | None
) -> str:
    """Send one request and read its answer to the end, or leave after some chunks.

    Returns:
        How it ended, as ``Tally.ends`` names it.

    Raises:
        ValueError: the answer is not what it should be.
    """
    try:
        if not body["stream"]:
            patience = TIMEOUT_S if leave_after is None else 0.01 * (leave_after + 1)
            answer = await client.post(path, json=body, timeout=patience)
            if answer.status_code != 200:
                return f"status {answer.status_code}"
            demand_whole(answer.json(), body)
            return "whole"
        async with client.stream("POST", path, json=body, timeout=TIMEOUT_S) as answer:
            if answer.status_code != 200:
                return f"status {answer.status_code}"
            lines: list[str] = []
            async for line in answer.aiter_lines():
                if line:
                    lines.append(line)
                if leave_after is not None and len(lines) > leave_after:
                    return "left"
        return demand_stream(lines, body)
    except httpx.TimeoutException:
        if leave_after is None:
            raise ValueError(f"no answer within {TIMEOUT_S:g} s: {str(body)[:200]}") from None
        return "left"
    except httpx.TransportError:
        return "broken"


def demand_whole(answer: dict, body: dict) -> None:
    """Check an answer that came as one."""
    choices = answer["choices"]
    if [row["index"] for row in choices] != list(range(body.get("n", 1))):
        raise ValueError(f"samples are missing or doubled: {choices}")
    if any(row["finish_reason"] not in ("stop", "length") for row in choices):
        raise ValueError(f"a sample has no end: {choices}")
    demand_usage(answer["usage"], body)


def demand_stream(lines: list[str], body: dict) -> str:
    """Check a stream that was read to its end."""
    if any(not line.startswith("data: ") for line in lines):
        raise ValueError(f"not an event: {lines[:3]}")
    events = [line.removeprefix("data: ") for line in lines]
    if not events or events[-1] != "[DONE]":
        return "broken"
    chunks = [json.loads(event) for event in events[:-1]]
    if any("error" in chunk for chunk in chunks):
        return "broken"
    reasons = [
        (row["index"], row["finish_reason"])
        for chunk in chunks
        for row in chunk["choices"]
        if row["finish_reason"]
    ]
    if sorted(index for index, _ in reasons) != list(range(body.get("n", 1))):
        raise ValueError(f"samples ended {reasons}")
    demand_usage(chunks[-1]["usage"], body)
    return "streamed"


def demand_usage(usage: dict, body: dict) -> None:
    """Check the counts of an answer."""
    most = body["max_tokens"] * body.get("n", 1)
    if not 1 <= usage["completion_tokens"] <= most:
        raise ValueError(f"{usage} for at most {most} tokens")
    if "prompt" in body and usage["prompt_tokens"] != len(body["prompt"]):
        raise ValueError(f"{usage} for a prompt of {len(body['prompt'])}")
    if usage["total_tokens"] != usage["prompt_tokens"] + usage["completion_tokens"]:
        raise ValueError(f"{usage} does not add up")


async def load(
    url: str, key: str, model: str, count: int, *, concurrency: int = 32, seed: int = 0
) -> Tally:
    """Send ``count`` requests, so many at once, and leave every tenth in the middle."""
    rng = random.Random(seed)
    tally = Tally()
    left = iter(range(count))

    async def work(client: httpx.AsyncClient) -> None:
        for _ in left:
            path, body = request_of(rng, model)
            leave_after = rng.randrange(6) if rng.random() < 0.1 else None
            try:
                tally.ends[await ask(client, path, body, leave_after)] += 1
            except (ValueError, KeyError, TypeError) as error:
                tally.faults.append(f"{type(error).__name__}: {error}")
            if tally.ends["broken"] or any(end.startswith("status") for end in tally.ends):
                await asyncio.sleep(0.01)  # an engine that is gone refuses at once

    headers = {"Authorization": f"Bearer {key}"}
    limits = httpx.Limits(max_connections=concurrency, max_keepalive_connections=concurrency)
    async with httpx.AsyncClient(base_url=url, headers=headers, limits=limits) as client:
        await asyncio.gather(*(work(client) for _ in range(concurrency)))
    return tally

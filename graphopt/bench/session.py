"""A whole measurement: prompts made, the server warmed up, loaded at one rate or several."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from graphopt.errors import MachineError, UsageError

from .arrivals import arrivals
from .client import Client, Endpoint
from .goal import Goal
from .lengths import Lengths
from .load import Planned, run_load
from .outcome import Outcome
from .prompts import LocalTokens, ServerTokens, Tokens, make_prompts
from .summary import detail, summary, sustained_rate
from .trace import Traced, read_trace


@dataclass(frozen=True, slots=True)
class Measurement:
    """What to measure.

    Attributes:
        url: of the server.
        endpoint: ``completions`` or ``chat``.
        model: asked for; None for the server's first.
        api_key: shown if there is one.
        tokenizer: ``server``, ``words``, or a path.
        prompt_tokens: lengths of prompts.
        output_tokens: lengths of answers.
        shared_tokens: tokens at the front that all prompts have in common.
        trace: a file of requests instead of lengths and rates.
        rates: requests a second, a run each; infinity sends all at once.
        burstiness: see ``arrivals``.
        max_concurrency: most requests under way.
        num_prompts: requests of each run.
        duration_s: nothing is sent after so many seconds of a run.
        warmup: requests before the first run, which are not measured.
        seed: makes prompts and times reproducible.
        goal: what is fast enough.
        goal_share: share of requests that has to be, for a rate to be sustained.
        extra: more fields of each body.
        timeout_s: longest wait for the next byte.
    """

    url: str
    endpoint: Endpoint = "completions"
    model: str | None = None
    api_key: str | None = field(default=None, repr=False)
    tokenizer: str = "server"
    prompt_tokens: Lengths = field(default_factory=lambda: Lengths("fixed", 128))
    output_tokens: Lengths = field(default_factory=lambda: Lengths("fixed", 128))
    shared_tokens: int = 0
    trace: Path | None = None
    rates: tuple[float, ...] = (math.inf,)
    burstiness: float = 1.0
    max_concurrency: int | None = None
    num_prompts: int = 100
    duration_s: float | None = None
    warmup: int = 1
    seed: int = 0
    goal: Goal | None = None
    goal_share: float = 0.9
    extra: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    timeout_s: float = 600.0


@dataclass(frozen=True, slots=True)
class Measured:
    """What came of it.

    Attributes:
        result: everything, as plain data.
        outcomes: the requests of each run.
    """

    result: dict[str, Any]
    outcomes: Sequence[Sequence[Outcome]]


async def measure(
    asked: Measurement,
    say: Callable[[str], None] = lambda text: None,
    on_end: Callable[[Outcome], None] = lambda outcome: None,
) -> Measured:
    """Load a server as ``asked``.

    Args:
        asked: what to measure.
        say: told in words what is being done.
        on_end: told of each answer that is measured.

    Raises:
        UsageError: something asked for makes no sense, or the server refuses.
        MachineError: the server does not answer.
    """
    rng = random.Random(asked.seed)
    trace = None if asked.trace is None else read_trace(asked.trace)
    client = Client(
        asked.url,
        asked.endpoint,
        api_key=asked.api_key,
        model=asked.model,
        extra=asked.extra,
        timeout_s=asked.timeout_s,
    )
    async with client:
        tokens = await _tokens(asked, client, say)
        if asked.warmup:
            say(f"warming up with {asked.warmup} requests")
            await _warm_up(asked, client, tokens, rng)
        runs, outcomes = [], []
        for rate in asked.rates:
            plan = await _plan(asked, rate, trace, tokens, rng)
            say(f"sending {len(plan)} requests" + _at(rate, trace is not None))
            before = client.events
            found, effort = await run_load(
                client.ask,
                plan,
                max_concurrency=asked.max_concurrency,
                duration_s=asked.duration_s,
                on_end=on_end,
            )
            run = summary(found, effort, client.events - before, asked.goal)
            finite = None if rate == math.inf or trace is not None else rate
            runs.append({"request_rate": finite, **run})
            outcomes.append(found)
    result: dict[str, Any] = {"settings": _settings(asked, client.model), "runs": runs}
    if asked.goal is not None:
        result["sustained_rate"] = sustained_rate(runs, asked.goal_share)
    return Measured(result, outcomes)


def with_details(measured: Measured) -> dict[str, Any]:
    """The result with every request in it."""
    runs = [
        {**run, "details": detail(found)}
        for run, found in zip(measured.result["runs"], measured.outcomes, strict=True)
    ]
    return {**measured.result, "runs": runs}


async def _tokens(asked: Measurement, client: Client, say: Callable[[str], None]) -> Tokens | None:
    """The tokenizer that was asked for; words if the server has no route for its own."""
    if asked.tokenizer == "words":
        return None
    if asked.tokenizer != "server":
        return LocalTokens(Path(asked.tokenizer))
    tokens = ServerTokens(client, chat=asked.endpoint == "chat")
    try:
        await tokens.overhead()
    except (UsageError, MachineError, KeyError, TypeError):
        say("the server has no /tokenize: a word counts as a token, or name a --tokenizer")
        return None
    return tokens


async def _plan(
    asked: Measurement,
    rate: float,
    trace: Sequence[Traced] | None,
    tokens: Tokens | None,
    rng: random.Random,
) -> list[Planned]:
    """The requests of one run."""
    if trace is None:
        count = asked.num_prompts
        times = arrivals(count, rate, asked.burstiness, rng)
        lengths = [asked.prompt_tokens.draw(rng) for _ in range(count)]
        outputs = [asked.output_tokens.draw(rng) for _ in range(count)]
        prompts = await make_prompts(lengths, tokens, rng, asked.shared_tokens)
        return [
            Planned(at_s, prompt.text, prompt.tokens, output)
            for at_s, prompt, output in zip(times, prompts, outputs, strict=True)
        ]
    made = iter(
        await make_prompts(
            [one.prompt_tokens for one in trace if one.prompt_tokens is not None],
            tokens,
            rng,
            asked.shared_tokens,
        )
    )
    plan = []
    for one in trace:
        if one.prompt is not None:
            plan.append(Planned(one.at_s, one.prompt, 0, one.output_tokens))
        else:
            prompt = next(made)
            plan.append(Planned(one.at_s, prompt.text, prompt.tokens, one.output_tokens))
    return plan


async def _warm_up(
    asked: Measurement, client: Client, tokens: Tokens | None, rng: random.Random
) -> None:
    """Some requests at once, as long as those to come are.

    Raises:
        UsageError: the server answers none of them.
    """
    lengths = [asked.prompt_tokens.draw(rng) for _ in range(asked.warmup)]
    prompts = await make_prompts(lengths, tokens, rng)
    plan = [
        Planned(0.0, prompt.text, prompt.tokens, asked.output_tokens.draw(rng))
        for prompt in prompts
    ]
    found, _ = await run_load(client.ask, plan, max_concurrency=asked.max_concurrency)
    if not any(one.ok for one in found):
        raise UsageError(
            "the server answers no request",
            where=asked.url,
            got=f"{found[0].status} {found[0].error}",
            next="look whether it knows the fields that are sent; --no-ignore-eos leaves one out",
        )


def _at(rate: float, traced: bool) -> str:
    if traced:
        return " of the trace at its times"
    return ", all at once" if rate == math.inf else f" at {rate:g} a second"


def _settings(asked: Measurement, model: str) -> dict[str, Any]:
    """What was asked for, as plain data; no key."""
    return {
        "url": asked.url,
        "endpoint": asked.endpoint,
        "model": model,
        "tokenizer": asked.tokenizer,
        "prompt_tokens": str(asked.prompt_tokens),
        "output_tokens": str(asked.output_tokens),
        "shared_tokens": asked.shared_tokens,
        "trace": None if asked.trace is None else str(asked.trace),
        "burstiness": asked.burstiness,
        "max_concurrency": asked.max_concurrency,
        "num_prompts": asked.num_prompts,
        "duration_s": asked.duration_s,
        "warmup": asked.warmup,
        "seed": asked.seed,
        "goal_share": asked.goal_share,
        "extra": dict(asked.extra),
    }

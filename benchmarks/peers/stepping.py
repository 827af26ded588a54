"""Times decode steps of an engine that batches continuously and is stepped by hand.

Prompts come in over several steps, in which the first ones decode already. So the steps that are
timed begin once every prompt has its first token, and each of them gives every sequence one more.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from benchmarks.peers.runner import Generation

# Makes one step; the new tokens of each request.
Step = Callable[[], Mapping[str, Sequence[int]]]


def timed(names: Sequence[str], step: Step, steps: int, started: float) -> Generation:
    """Step until every request has a token, then so many steps more.

    Args:
        names: of the requests, which were made already.
        step: makes one.
        steps: that are timed.
        started: seconds of `time.perf_counter` before the requests were made.

    Raises:
        RuntimeError: a timed step did not give every request one token.
    """
    tokens: dict[str, list[int]] = {name: [] for name in names}
    while not all(tokens.values()):
        for name, new in step().items():
            tokens[name].extend(new)
    before, first = sum(map(len, tokens.values())), time.perf_counter()
    for _ in range(steps):
        for name, new in step().items():
            tokens[name].extend(new)
    ended = time.perf_counter()
    made = sum(map(len, tokens.values())) - before
    if made != steps * len(names):
        raise RuntimeError(f"{steps} steps of {len(names)} requests gave {made} tokens")
    return Generation(first - started, ended - first, [one[: steps + 1] for one in tokens.values()])

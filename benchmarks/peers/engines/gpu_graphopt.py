"""graphopt on a GPU, through `graphopt.LLM` on an artifact; its engine is stepped by hand.

On a machine without a GPU an artifact for a CPU runs in the same way.
"""

from __future__ import annotations

import time
from typing import Any

from benchmarks.peers.engines import graphopt
from benchmarks.peers.runner import Generation, Prompts, Steady
from benchmarks.peers.stepping import timed

# Tokens of a request beyond those that are timed: what the first prompts make while the last come.
SLACK = 512


class Engine(graphopt.Engine):
    """`path` is an artifact."""

    step_tokens = 8192  # vLLM's own choice on such GPUs

    def generate(self, prompts: Prompts, steps: int) -> Generation:
        """See :class:`Runner`; prompts may come in over several steps."""
        started = time.perf_counter()
        room = self.llm.max_model_len - len(prompts[0])
        names = self._add(prompts, [min(room, steps + SLACK if steps else 1)] * len(prompts))
        try:
            return timed(names, self._new_tokens, steps, started)
        finally:
            for name in names:
                self.llm.engine.abort(name)

    def facts(self) -> dict[str, Any]:
        """How long captures took, and what was captured."""
        captures = getattr(self.llm.engine._executor, "captures", None)
        if captures is None:
            return {}
        return {"capture_s": captures.took_s, "captures": captures.measured.to_json()}

    def steady(self, prompts: Prompts, steps: int) -> Steady:
        """See :class:`Runner`; what the device computes is timed by a decode that runs again.

        Raises:
            NotImplementedError: nothing is captured here.
        """
        executor: Any = self.llm.engine._executor
        if not hasattr(executor, "again"):
            raise NotImplementedError("what is not captured cannot run again by itself")
        names = self._add(
            prompts, [min(self.llm.max_model_len - len(prompts[0]), SLACK)] * len(prompts)
        )
        try:
            waiting = set(names)
            while waiting:
                waiting -= self._new_tokens().keys()
            for _ in range(2):  # from here on each step follows a decode
                self._new_tokens()
            copied, started = executor.copied_bytes, time.perf_counter()
            for _ in range(steps):
                self._new_tokens()
            step_s = (time.perf_counter() - started) / steps
            copied_bytes = (executor.copied_bytes - copied) / steps
            started = time.perf_counter()
            if not executor.again(steps):
                raise RuntimeError(f"decodes of {len(prompts)} sequences are not captured")
            device_s = (time.perf_counter() - started) / steps
            return Steady(step_s, device_s, copied_bytes)
        finally:
            for name in names:
                self.llm.engine.abort(name)

    def score(self, prompts: Prompts) -> list[list[float]]:
        """See :class:`Runner`."""
        return [self.llm.score(prompt)[1:] for prompt in prompts]

    def _new_tokens(self) -> dict[str, list[int]]:
        """Run one step."""
        found: dict[str, list[int]] = {}
        for delta in self.llm.engine.step().deltas:
            if delta.error is not None:
                raise delta.error
            found.setdefault(delta.request_id, []).extend(delta.token_ids)
        return found

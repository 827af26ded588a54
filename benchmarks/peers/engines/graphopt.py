"""graphopt itself, through `graphopt.LLM` on an artifact.

The engine is stepped by hand to tell the first token from the rest; a step is the same call that
`LLM.generate` makes, with sampling, detokenizing and bookkeeping in it.
"""

from __future__ import annotations

import sys
import time
from typing import Any

from benchmarks.peers.runner import Generation, Prompts, Runner, Serving


class Engine(Runner):
    """`path` is an artifact.

    Attributes:
        step_tokens: most tokens of a step; prompts of a batch are computed in one, as the other
            engines are told to.
    """

    step_tokens = 2048

    def import_engine(self) -> None:
        """See :class:`Runner`."""
        import graphopt.runtime.llm

        self.graphopt: Any = graphopt

    def load(self) -> None:
        """See :class:`Runner`."""
        job = self.job
        self.artifact = self.graphopt.read_artifact(job.path)
        limits = self.artifact.plan.limits
        self.llm = self.graphopt.LLM(
            self.artifact,
            max_num_seqs=job.sequences,
            max_num_batched_tokens=max(self.step_tokens, job.sequences),
            max_model_len=min(job.context, limits.max_model_len),
            enable_prefix_caching=False,
            seed=0,
        )
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(job.threads)
        self.requests = 0

    def versions(self) -> dict[str, str]:
        """See :class:`Runner`."""
        through = [name for name in ("torch",) if name in sys.modules]
        found = {"graphopt": str(self.graphopt.__version__)}
        return found | {name: str(sys.modules[name].__version__) for name in through}

    def weight_bytes(self) -> int:
        """See :class:`Runner`."""
        return int(self.artifact.weight_bytes)

    def generate(self, prompts: Prompts, steps: int) -> Generation:
        """See :class:`Runner`."""
        started = time.perf_counter()
        names = self._add(prompts, [steps + 1] * len(prompts))
        tokens: dict[str, list[int]] = {name: [] for name in names}
        self._step(tokens)
        first = time.perf_counter()
        if any(len(one) != 1 for one in tokens.values()):
            raise RuntimeError(f"{len(prompts)} prompts did not fit into one step")
        for _ in range(steps):
            self._step(tokens)
        ended = time.perf_counter()
        return Generation(first - started, ended - first, [tokens[name] for name in names])

    def serve(self, prompts: Prompts, outputs: list[int]) -> Serving:
        """See :class:`Runner`."""
        params = [self._params(count) for count in outputs]
        started = time.perf_counter()
        found = self.llm.generate(prompts, params)
        ended = time.perf_counter()
        return Serving(ended - started, [len(one.token_ids) for one in found])

    def _params(self, tokens: int) -> Any:
        return self.graphopt.SamplingParams(max_tokens=tokens, temperature=0.0, ignore_eos=True)

    def _add(self, prompts: Prompts, outputs: list[int]) -> list[str]:
        names = []
        for prompt, count in zip(prompts, outputs, strict=True):
            names.append(f"{self.requests}")
            self.requests += 1
            self.llm.engine.add_request(names[-1], prompt, self._params(count))
        return names

    def _step(self, tokens: dict[str, list[int]]) -> None:
        """Run one step, and put what it made into `tokens`."""
        done = self.llm.engine.step()
        for delta in done.deltas:
            if delta.error is not None:
                raise delta.error
            tokens[delta.request_id].extend(delta.token_ids)

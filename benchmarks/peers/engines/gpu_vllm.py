"""vLLM, its engine stepped by hand in this process."""

from __future__ import annotations

import os
import time
from typing import Any

from benchmarks.peers.runner import Generation, Prompts, Runner, Serving
from benchmarks.peers.stepping import timed

# Tokens of a request beyond those that are timed, as for graphopt.
SLACK = 512
MAX_NUM_BATCHED_TOKENS = 8192


class Engine(Runner):
    """`path` is a checkpoint."""

    def import_engine(self) -> None:
        """See :class:`Runner`."""
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        import vllm

        self.vllm: Any = vllm

    def load(self) -> None:
        """See :class:`Runner`."""
        job = self.job
        self.llm = self.vllm.LLM(
            model=str(job.path),
            dtype="bfloat16",
            max_num_seqs=job.sequences,
            max_num_batched_tokens=max(MAX_NUM_BATCHED_TOKENS, job.sequences),
            max_model_len=job.context,
            enable_prefix_caching=False,
            seed=0,
        )
        self.requests = 0

    def versions(self) -> dict[str, str]:
        """See :class:`Runner`."""
        return {"vllm": str(self.vllm.__version__)}

    def weight_bytes(self) -> int:
        """Of the checkpoint's files."""
        return sum(file.stat().st_size for file in self.job.path.glob("*.safetensors"))

    def generate(self, prompts: Prompts, steps: int) -> Generation:
        """See :class:`Runner`."""
        started = time.perf_counter()
        engine = self.llm.llm_engine
        room = self.job.context - len(prompts[0])
        params = self._params(min(room, steps + SLACK if steps else 1))
        names = []
        for prompt in prompts:
            names.append(str(self.requests))
            self.requests += 1
            engine.add_request(names[-1], {"prompt_token_ids": prompt}, params)
        counts = dict.fromkeys(names, 0)

        def step() -> dict[str, list[int]]:
            found = {}
            for output in engine.step():
                tokens = list(output.outputs[0].token_ids)  # all so far
                found[output.request_id] = tokens[counts[output.request_id] :]
                counts[output.request_id] = len(tokens)
            return found

        try:
            return timed(names, step, steps, started)
        finally:
            engine.abort_request(names)
            while engine.has_unfinished_requests():
                engine.step()

    def serve(self, prompts: Prompts, outputs: list[int]) -> Serving:
        """See :class:`Runner`."""
        params = [self._params(count) for count in outputs]
        started = time.perf_counter()
        asked = [{"prompt_token_ids": prompt} for prompt in prompts]
        found = self.llm.generate(asked, params, use_tqdm=False)
        ended = time.perf_counter()
        return Serving(ended - started, [len(one.outputs[0].token_ids) for one in found])

    def _params(self, tokens: int) -> Any:
        return self.vllm.SamplingParams(max_tokens=tokens, temperature=0.0, ignore_eos=True)

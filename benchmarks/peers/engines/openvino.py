"""OpenVINO GenAI's continuous-batching pipeline on the CPU.

Keys and values are kept as OpenVINO keeps them by default, in 8 bits; the other engines keep 16.
"""

from __future__ import annotations

import time
from typing import Any

from benchmarks.peers.runner import Generation, Prompts, Runner, Serving

CACHE_GB = 2
# The prompts of a batch in one step. With the default of 256 a mix of eight requests took 2.8 s of
# one core, with this 2.7.
MAX_NUM_BATCHED_TOKENS = 2048


class Engine(Runner):
    """`path` is a folder that `optimum-cli export openvino` wrote, of a model with tied weights."""

    def import_engine(self) -> None:
        """See :class:`Runner`."""
        import numpy as np
        import openvino
        import openvino_genai

        self.numpy: Any = np
        self.openvino: Any = openvino
        self.genai: Any = openvino_genai

    def load(self) -> None:
        """See :class:`Runner`."""
        scheduler = self.genai.SchedulerConfig()
        scheduler.cache_size = CACHE_GB
        scheduler.max_num_batched_tokens = MAX_NUM_BATCHED_TOKENS
        scheduler.max_num_seqs = self.job.sequences
        scheduler.enable_prefix_caching = False
        self.pipeline = self.genai.ContinuousBatchingPipeline(
            str(self.job.path), scheduler, "CPU", {"INFERENCE_NUM_THREADS": self.job.threads}
        )
        self.requests = 0

    def versions(self) -> dict[str, str]:
        """See :class:`Runner`."""
        return {"openvino-genai": str(self.genai.__version__)}

    def weight_bytes(self) -> int:
        """See :class:`Runner`; all of the file, so the head must be the embedding."""
        return (self.job.path / "openvino_model.bin").stat().st_size

    def generate(self, prompts: Prompts, steps: int) -> Generation:
        """See :class:`Runner`."""
        started = time.perf_counter()
        handles = self._add(prompts, [steps + 1] * len(prompts))
        self.pipeline.step()
        first = time.perf_counter()
        calls = self._finish()
        ended = time.perf_counter()
        if calls != steps:
            raise RuntimeError(f"{steps} decode steps were expected, {calls} were made")
        tokens = [list(one.read_all()[0].generated_ids) for one in handles]
        return Generation(first - started, ended - first, tokens)

    def serve(self, prompts: Prompts, outputs: list[int]) -> Serving:
        """See :class:`Runner`."""
        started = time.perf_counter()
        handles = self._add(prompts, outputs)
        self._finish()
        ended = time.perf_counter()
        counts = [len(one.read_all()[0].generated_ids) for one in handles]
        return Serving(ended - started, counts)

    def _add(self, prompts: Prompts, outputs: list[int]) -> list[Any]:
        handles = []
        for prompt, count in zip(prompts, outputs, strict=True):
            config = self.genai.GenerationConfig(
                max_new_tokens=count, ignore_eos=True, do_sample=False
            )
            ids = self.openvino.Tensor(self.numpy.array([prompt], dtype=self.numpy.int64))
            handles.append(self.pipeline.add_request(self.requests, ids, config))
            self.requests += 1
        return handles

    def _finish(self) -> int:
        """Step until nothing is left; returns how many steps that took."""
        calls = 0
        while self.pipeline.has_non_finished_requests():
            self.pipeline.step()
            calls += 1
        return calls

"""onnxruntime-genai on the CPU. It batches equally long prompts, and has no continuous batching."""

from __future__ import annotations

import json
from typing import Any

from benchmarks.peers.runner import Prompts, StepRunner


class Engine(StepRunner):
    """`path` is a folder that `onnxruntime_genai.models.builder` wrote."""

    def import_engine(self) -> None:
        """See :class:`Runner`."""
        import numpy as np
        import onnxruntime_genai

        self.numpy: Any = np
        self.genai: Any = onnxruntime_genai

    def load(self) -> None:
        """See :class:`Runner`."""
        config = self.genai.Config(str(self.job.path))
        options = {"session_options": {"intra_op_num_threads": self.job.threads}}
        config.overlay(json.dumps({"model": {"decoder": options}}))
        self.model = self.genai.Model(config)

    def versions(self) -> dict[str, str]:
        """See :class:`Runner`."""
        return {"onnxruntime-genai": str(self.genai.__version__)}

    def weight_bytes(self) -> int:
        """See :class:`Runner`; all of the files, so the head must be the embedding."""
        return sum(file.stat().st_size for file in self.job.path.glob("*.onnx*"))

    def prefill(self, prompts: Prompts, steps: int) -> list[int]:
        """See :class:`StepRunner`."""
        params = self.genai.GeneratorParams(self.model)
        length = len(prompts[0]) + steps + 2
        # With min_length, an end-of-text token that random weights choose does not end it.
        params.set_search_options(
            do_sample=False, batch_size=len(prompts), max_length=length, min_length=length
        )
        self.generator = self.genai.Generator(self.model, params)
        self.generator.append_tokens(self.numpy.array(prompts, dtype=self.numpy.int32))
        return self.step([])

    def step(self, tokens: list[int]) -> list[int]:
        """See :class:`StepRunner`; the engine itself remembers what it chose last."""
        self.generator.generate_next_token()
        return [int(token) for token in self.generator.get_next_tokens()]

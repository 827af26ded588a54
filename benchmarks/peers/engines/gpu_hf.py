"""transformers in bfloat16 on a GPU: `generate` with a static cache, and continuous batching.

`generate` compiles its decode steps by itself where there is a GPU. Both are set up as transformers
does it: continuous batching takes what memory there is. Without a GPU both run on the CPU.
"""

from __future__ import annotations

import time
from typing import Any

from benchmarks.peers.engines import hf
from benchmarks.peers.runner import Generation, Prompts


class Engine(hf.Engine):
    """`path` is a checkpoint."""

    dtype = "bfloat16"

    def load(self) -> None:
        """See :class:`Runner`."""
        self.device = "cuda" if self.torch.cuda.is_available() else "cpu"
        models = self.transformers.AutoModelForCausalLM
        dtype = getattr(self.torch, self.dtype)
        self.model = models.from_pretrained(self.job.path, dtype=dtype).eval().to(self.device)

    def generate(self, prompts: Prompts, steps: int) -> Generation:
        """See :class:`Runner`."""
        torch, first = self.torch, 0.0

        def after_each_token(ids: Any, scores: Any, **_: Any) -> Any:
            nonlocal first
            if not first:
                if self.device == "cuda":
                    torch.cuda.synchronize()
                first = time.perf_counter()
            return torch.zeros(len(ids), dtype=torch.bool, device=ids.device)  # nobody stops

        started = time.perf_counter()
        ids = torch.tensor(prompts, device=self.device)
        found = self.model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=steps + 1,
            min_new_tokens=steps + 1,
            do_sample=False,
            cache_implementation="static",
            stopping_criteria=[after_each_token],
            pad_token_id=0,
        )
        tokens: list[list[int]] = found[:, ids.shape[1] :].tolist()  # waits for the device
        return Generation(first - started, time.perf_counter() - first, tokens)

    def score(self, prompts: Prompts) -> list[list[float]]:
        """See :class:`Runner`."""
        found = []
        with self.torch.no_grad():
            for prompt in prompts:
                ids = self.torch.tensor([prompt], device=self.device)
                logprobs = self.model(input_ids=ids).logits[0].float().log_softmax(-1)
                found.append(logprobs[:-1].gather(1, ids[0, 1:, None])[:, 0].tolist())
        return found

    def batching(self) -> Any:
        """See :class:`hf.Engine`."""
        if self.device == "cpu":
            return super().batching()
        return self.transformers.ContinuousBatchingConfig(
            max_requests_per_batch=self.job.sequences, allow_block_sharing=False
        )

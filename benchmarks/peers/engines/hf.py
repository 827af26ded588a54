"""transformers in bfloat16, eager mode; for serving, its continuous batching."""

from __future__ import annotations

import time
from typing import Any

from benchmarks.peers.runner import Prompts, Serving, StepRunner

PAGE_TOKENS = 256  # its default
# A mix of eight requests took 6.6 s of one core with steps of 256 tokens, 6.9 with 512, 8.1 with
# 2048.
BATCH_TOKENS = 256


class Engine(StepRunner):
    """`path` is a checkpoint."""

    def import_engine(self) -> None:
        """See :class:`Runner`."""
        import torch
        import transformers

        self.torch: Any = torch
        self.transformers: Any = transformers

    def load(self) -> None:
        """See :class:`Runner`."""
        self.torch.set_num_threads(self.job.threads)
        self.model = self.transformers.AutoModelForCausalLM.from_pretrained(
            self.job.path, dtype=self.torch.bfloat16
        ).eval()

    def versions(self) -> dict[str, str]:
        """See :class:`Runner`."""
        return {
            "transformers": str(self.transformers.__version__),
            "torch": str(self.torch.__version__),
        }

    def weight_bytes(self) -> int:
        """See :class:`Runner`."""
        tied = self.model.config.tie_word_embeddings
        unread = None if tied else self.model.get_input_embeddings().weight
        return sum(one.nbytes for one in self.model.parameters() if one is not unread)

    def prefill(self, prompts: Prompts, steps: int) -> list[int]:
        """See :class:`StepRunner`."""
        self.cache: Any = self.transformers.DynamicCache(config=self.model.config)
        return self.next_tokens(self.model, prompts)

    def step(self, tokens: list[int]) -> list[int]:
        """See :class:`StepRunner`."""
        return self.next_tokens(self.model, [[token] for token in tokens])

    def next_tokens(self, model: Any, ids: Prompts) -> list[int]:
        """Run `model` on further tokens of each sequence, and return the likeliest next ones."""
        with self.torch.no_grad():
            logits = model(
                input_ids=self.torch.tensor(ids),
                past_key_values=self.cache,
                use_cache=True,
                logits_to_keep=1,
            ).logits
            found: list[int] = logits[:, -1].argmax(-1).tolist()
            return found

    def batching(self) -> Any:
        """How its continuous batching is set up."""
        job = self.job
        return self.transformers.ContinuousBatchingConfig(
            page_size=PAGE_TOKENS,
            num_blocks=job.sequences * (-(-job.context // PAGE_TOKENS)) + 1,
            max_batch_tokens=BATCH_TOKENS,
            max_requests_per_batch=job.sequences,
            allow_block_sharing=False,
        )

    def serve(self, prompts: Prompts, outputs: list[int]) -> Serving:
        """See :class:`Runner`."""
        config = self.transformers.GenerationConfig(
            do_sample=False, max_new_tokens=max(outputs), eos_token_id=-1, pad_token_id=0
        )
        with self.model.continuous_batching_context_manager(
            generation_config=config, continuous_batching_config=self.batching()
        ) as manager:
            started = time.perf_counter()
            names = [
                manager.add_request(list(prompt), max_new_tokens=count, eos_token_id=-1)
                for prompt, count in zip(prompts, outputs, strict=True)
            ]
            counts: dict[str, int] = {}
            while len(counts) < len(names):
                result = manager.get_result(timeout=1.0)
                if result is not None and result.is_finished():
                    counts[result.request_id] = len(result.generated_tokens)
                elif result is None and not manager.is_running():
                    raise RuntimeError("the continuous-batching thread ended early")
            ended = time.perf_counter()
        return Serving(ended - started, [counts[name] for name in names])

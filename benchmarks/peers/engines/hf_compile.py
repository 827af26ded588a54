"""transformers in bfloat16 with a static cache and `torch.compile`.

Decode steps are compiled. A prompt that decode steps follow is computed eagerly, as transformers'
own `generate` does; a prompt alone is compiled too, to see what compiling gives there.
"""

from __future__ import annotations

from typing import Any

from benchmarks.peers.engines import hf
from benchmarks.peers.runner import Prompts, Serving, StepRunner

CACHE_UNIT = 64  # caches are as long as a multiple of it, so that few graphs are compiled


class Engine(hf.Engine):
    """`path` is a checkpoint."""

    def load(self) -> None:
        """See :class:`Runner`."""
        super().load()
        self.compiled = self.torch.compile(self.model, dynamic=False)
        self.caches: dict[tuple[int, int], Any] = {}

    def prefill(self, prompts: Prompts, steps: int) -> list[int]:
        """See :class:`StepRunner`."""
        length = -(-(len(prompts[0]) + steps) // CACHE_UNIT) * CACHE_UNIT
        self.cache = self._static_cache(len(prompts), length)
        return self.next_tokens(self.model if steps else self.compiled, prompts)

    def step(self, tokens: list[int]) -> list[int]:
        """See :class:`StepRunner`."""
        return self.next_tokens(self.compiled, [[token] for token in tokens])

    def _static_cache(self, batch: int, length: int) -> Any:
        """An empty static cache; one of the same size is used again."""
        if (batch, length) not in self.caches:
            config = self.model.config
            cache = self.transformers.StaticCache(config=config, max_cache_len=length)
            head = getattr(config, "head_dim", None)
            head = head or config.hidden_size // config.num_attention_heads
            # Allocated now: a cache that comes to be in its first use is compiled for twice.
            cache.early_initialization(
                batch, config.num_key_value_heads, head, self.torch.bfloat16, self.model.device
            )
            self.caches[batch, length] = cache
        self.caches[batch, length].reset()
        return self.caches[batch, length]

    def serve(self, prompts: Prompts, outputs: list[int]) -> Serving:
        """See :class:`Runner`."""
        return StepRunner.serve(self, prompts, outputs)

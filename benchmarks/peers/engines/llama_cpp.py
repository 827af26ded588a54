"""llama.cpp through the C interface of llama-cpp-python; its batches are filled by `Slots`."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Sequence
from typing import Any

from benchmarks.peers.runner import Prompts, Serving, StepRunner
from benchmarks.peers.slots import Part, Slots

# The server's own defaults: tokens in a batch, and in what is computed at once of it. Whether the
# sequences share one cache (kv_unified) made no difference to the mix: 9.50 and 9.54 s.
BATCH_TOKENS = 2048
UBATCH_TOKENS = 512


class Engine(StepRunner):
    """`path` is a GGUF file."""

    def import_engine(self) -> None:
        """See :class:`Runner`."""
        import llama_cpp
        import numpy as np

        self.lib: Any = llama_cpp
        self.numpy: Any = np

    def load(self) -> None:
        """See :class:`Runner`."""
        lib = self.lib
        self.log = lib.llama_log_callback(lambda *_: None)  # kept alive: C holds it
        lib.llama_log_set(self.log, ctypes.c_void_p(0))
        lib.llama_backend_init()
        params = lib.llama_model_default_params()
        params.n_gpu_layers = 0
        self.model = lib.llama_model_load_from_file(str(self.job.path).encode(), params)
        if not self.model:
            raise RuntimeError(f"llama.cpp could not load {self.job.path}")
        self.vocab_size = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(self.model))
        self.context: Any = None
        self.batch: Any = None
        self.sequences = 0
        self._use_context(1)

    def versions(self) -> dict[str, str]:
        """See :class:`Runner`."""
        return {"llama-cpp-python": str(self.lib.__version__)}

    def weight_bytes(self) -> int:
        """See :class:`Runner`."""
        from gguf import GGUFReader

        sizes = {one.name: int(one.n_bytes) for one in GGUFReader(self.job.path).tensors}
        if "output.weight" in sizes:
            del sizes["token_embd.weight"]
        return sum(sizes.values())

    def prefill(self, prompts: Prompts, steps: int) -> list[int]:
        """See :class:`StepRunner`."""
        self._use_context(len(prompts))
        self.position = len(prompts[0])
        return self._decode([Part(slot, tuple(one), 0, True) for slot, one in enumerate(prompts)])

    def step(self, tokens: list[int]) -> list[int]:
        """See :class:`StepRunner`."""
        parts = [Part(slot, (one,), self.position, True) for slot, one in enumerate(tokens)]
        self.position += 1
        return self._decode(parts)

    def serve(self, prompts: Prompts, outputs: list[int]) -> Serving:
        """See :class:`Runner`."""
        self._use_context(self.job.sequences)
        memory = self.lib.llama_get_memory(self.context)
        started = time.perf_counter()
        slots = Slots(prompts, outputs, self.job.sequences, BATCH_TOKENS)
        while batch := slots.next_batch():
            for slot in slots.accept(self._decode(batch)):
                self.lib.llama_memory_seq_rm(memory, slot, -1, -1)
        ended = time.perf_counter()
        return Serving(ended - started, slots.counts)

    def _use_context(self, sequences: int) -> None:
        """An empty context for so many sequences; one of the same size is used again."""
        lib = self.lib
        if self.sequences != sequences:
            if self.context:
                lib.llama_batch_free(self.batch)
                lib.llama_free(self.context)
            params = lib.llama_context_default_params()
            params.n_ctx = sequences * self.job.context
            params.n_batch = BATCH_TOKENS
            params.n_ubatch = UBATCH_TOKENS
            params.n_seq_max = sequences
            params.n_threads = params.n_threads_batch = self.job.threads
            self.context = lib.llama_init_from_model(self.model, params)
            if not self.context:
                raise RuntimeError(f"llama.cpp made no context for {sequences} sequences")
            self.batch = lib.llama_batch_init(BATCH_TOKENS, 0, 1)
            self.sequences = sequences
        lib.llama_memory_clear(lib.llama_get_memory(self.context), True)

    def _decode(self, parts: Sequence[Part]) -> list[int]:
        """Compute one batch; returns the likeliest token after each part that wants one."""
        batch, count = self.batch, 0
        outputs = []
        for part in parts:
            for offset, token in enumerate(part.tokens):
                last = part.wants_token and offset == len(part.tokens) - 1
                batch.token[count] = token
                batch.pos[count] = part.position + offset
                batch.n_seq_id[count] = 1
                batch.seq_id[count][0] = part.slot
                batch.logits[count] = last
                if last:
                    outputs.append(count)
                count += 1
        batch.n_tokens = count
        if code := self.lib.llama_decode(self.context, batch):
            raise RuntimeError(f"llama_decode returned {code}")
        return [self._likeliest(index) for index in outputs]

    def _likeliest(self, index: int) -> int:
        pointer = self.lib.llama_get_logits_ith(self.context, index)
        logits = self.numpy.ctypeslib.as_array(pointer, shape=(self.vocab_size,))
        return int(logits.argmax())

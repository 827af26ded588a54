"""What a decoder has to compute and to read, and how long that takes at least.

A bound is the greater of two times: to read the weights as often as they must be read, and to make
all products and sums. Weights are an engine's own bytes, so that a bound is the engine's own, too;
keys and values are not counted (a few per cent of 4-bit weights at batch 8).
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.rates import Reading

# The type that dot products multiply, by precision of the weights: the fastest that the machine has
# and that an engine may use.
DOT_KIND = {"bf16": "bf16", "int8": "int8", "int4": "int8"}


@dataclass(frozen=True, slots=True)
class Work:
    """What a dense decoder computes.

    Attributes:
        body: elements of all matrices but the output head.
        head: elements of the output head.
        attention: multiplications of one query with one key and value, in all layers.
        vocab_size: tokens that there are.
    """

    body: int
    head: int
    attention: int
    vocab_size: int

    def decode_flop(self, batch: int, context: int, steps: int) -> float:
        """Of `steps` steps of `batch` sequences, after `context` tokens each."""
        keys = steps * context + steps * (steps + 1) // 2
        return 2.0 * batch * (steps * (self.body + self.head) + keys * self.attention)

    def prefill_flop(self, tokens: int) -> float:
        """Of a prompt, up to its first token."""
        keys = tokens * (tokens + 1) // 2
        return 2.0 * (tokens * self.body + self.head + keys * self.attention)

    def serve_flop(self, prompts: Sequence[int], outputs: Sequence[int]) -> float:
        """Of requests, by their lengths."""
        return sum(
            self.prefill_flop(prompt) + self.decode_flop(1, prompt, output - 1)
            for prompt, output in zip(prompts, outputs, strict=True)
        )


def least_steps(prompts: Sequence[int], outputs: Sequence[int], running: int) -> int:
    """Fewest steps of an engine that runs so many requests at once: each gives a token a step."""
    return max(max(outputs), -(-sum(outputs) // running)) if prompts else 0


def bound_s(reading: Reading, precision: str, weight_bytes: int, passes: int, flop: float) -> float:
    """Least seconds of work.

    Args:
        reading: what the machine can do.
        precision: of the weights.
        weight_bytes: bytes of them, as the engine stores them.
        passes: how often they must be read.
        flop: products and sums.
    """
    reads = weight_bytes * passes / reading.read_bytes_s
    return max(reads, flop / reading.dot_flop_s[DOT_KIND[precision]])


def work_of(checkpoint: Path) -> Work:
    """What the decoder of a checkpoint computes.

    Raises:
        ValueError: the checkpoint has no matrices.
    """
    config = json.loads((checkpoint / "config.json").read_text())
    shapes = {name: shape for name, shape in _shapes(checkpoint).items() if len(shape) == 2}
    embeddings = [name for name in shapes if name.endswith("embed_tokens.weight")]
    heads = [name for name in shapes if name.endswith("lm_head.weight")] or embeddings
    if len(heads) != 1 or len(embeddings) != 1:
        raise ValueError(f"{checkpoint} has no output head that is known")
    total = sum(math.prod(shape) for name, shape in shapes.items() if name not in embeddings)
    head = math.prod(shapes[heads[0]])
    body = total if heads == embeddings else total - head
    width = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    attention = 2 * width * config["num_attention_heads"] * config["num_hidden_layers"]
    return Work(body, head, attention, config["vocab_size"])


def _shapes(checkpoint: Path) -> dict[str, list[int]]:
    """Shapes of all tensors, from the headers of the safetensors files."""
    shapes = {}
    for file in sorted(checkpoint.glob("*.safetensors")):
        with file.open("rb") as stream:
            size = int.from_bytes(stream.read(8), "little")
            header = json.loads(stream.read(size))
        for name, entry in header.items():
            if name != "__metadata__":
                shapes[name] = entry["shape"]
    return shapes

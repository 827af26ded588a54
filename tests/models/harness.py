"""A tiny engine around a traced graph, and transformers beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cache, cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoConfig, PretrainedConfig, PreTrainedModel

from graphopt.frontend.hf import Decoder, trace_decoder
from graphopt.frontend.quiet import quiet
from graphopt.frontend.twin import reference_model, weights_of
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph
from graphopt.ir.interpreter import Interpreter
from graphopt.ir.reference import PagedState
from graphopt.passes.manager import run_passes
from graphopt.passes.pipeline import decoder_pipeline
from graphopt.runtime.executor import StepInputs
from tests.models.cases import CASES

BLOCK = 4


@dataclass(frozen=True)
class Case:
    """A family: its configuration, its graph in float32, and transformers' model of it."""

    config: PretrainedConfig
    decoder: Decoder
    reference: PreTrainedModel

    @cached_property
    def compiled(self) -> Graph:
        """The graph after the passes, constants left in place."""
        return run_passes(self.decoder.graph, decoder_pipeline(self.decoder.scalars))[0]

    @property
    def weights(self) -> dict[str, Tensor]:
        return weights_of(self.reference, self.decoder)


def config_of(model_type: str, **settings: Any) -> PretrainedConfig:
    """A configuration, without transformers' remarks on it."""
    with quiet():
        return AutoConfig.for_model(model_type, **settings)


@cache
def case(name: str) -> Case:
    """The case called ``name``, traced once per process."""
    model_type, settings = CASES[name]
    config = config_of(model_type, **settings)
    decoder = trace_decoder(config, DType.F32)
    return Case(config, decoder, reference_model(config, seed=7))


@dataclass
class Running:
    """Tokens of one sequence, and the blocks they live in."""

    tokens: list[int]
    blocks: list[int] = field(default_factory=list)
    done: int = 0


class Engine:
    """Runs steps over sequences in paged memory; blocks are handed out in no order."""

    def __init__(self, blocks: int) -> None:
        self.free = [(index * 7) % blocks for index in range(blocks)]

    def logits(self, inputs: StepInputs) -> Tensor:
        """The logits of a step, one row for each that it asks for."""
        raise NotImplementedError

    def step(self, parts: Sequence[tuple[Running, int]], last_only: bool = False) -> list[Tensor]:
        """Gives each sequence its next ``count`` tokens; logits of those, or of the last one.

        Where tokens see what comes after them, they see all of the step.
        """
        ids, positions, slots, rows, sizes, starts = [], [], [], [], [], [0]
        for sequence, count in parts:
            for position in range(sequence.done, sequence.done + count):
                if position // BLOCK == len(sequence.blocks):
                    sequence.blocks.append(self.free.pop())
                slots.append(sequence.blocks[position // BLOCK] * BLOCK + position % BLOCK)
                ids.append(sequence.tokens[position])
                positions.append(position)
            sequence.done += count
            starts.append(len(ids))
            wanted = 1 if last_only else count
            rows.extend(range(len(ids) - wanted, len(ids)))
            sizes.append(wanted)
        longest = max(len(sequence.blocks) for sequence, _ in parts)
        tables = [s.blocks + [0] * (longest - len(s.blocks)) for s, _ in parts]
        lengths = np.array([s.done for s, _ in parts], np.int32)
        logits = self.logits(
            StepInputs(
                token_ids=np.array(ids),
                positions=np.array(positions),
                rows=np.array(rows),
                slots=np.array(slots),
                starts=np.array(starts, np.int32),
                lengths=lengths,
                tables=np.array(tables, np.int32),
                reaches=np.repeat(lengths, np.diff(starts)),
            )
        )
        return list(logits.split(sizes))


class Paged(Engine):
    """A graph in the interpreter."""

    def __init__(self, graph: Graph, weights: Mapping[str, Tensor], blocks: int = 64) -> None:
        super().__init__(blocks)
        self.interpreter = Interpreter(graph, weights)
        self.state = PagedState.allocate(graph.input("kv").type, blocks, BLOCK, fill=float("nan"))

    def logits(self, inputs: StepInputs) -> Tensor:
        known = {value.name for value in self.interpreter.graph.inputs}
        names = (one.name for one in fields(inputs))
        named = {name: getattr(inputs, name) for name in names if name in known}
        (logits,) = self.interpreter.run({**named, "kv": self.state})
        return logits


def prompts(vocabulary: int, lengths: Sequence[int], seed: int = 0) -> list[list[int]]:
    """Random prompts; token 0, which many models call padding, is in each."""
    generator = torch.Generator().manual_seed(seed)
    made = [torch.randint(0, vocabulary, (n,), generator=generator).tolist() for n in lengths]
    for tokens in made:
        tokens[len(tokens) // 2] = 0
    return made


def mixed_step_error(
    graph: Graph, weights: Mapping[str, Tensor], reference: PreTrainedModel
) -> float:
    """Relative error of a step of a prefill chunk and two decodes at different lengths."""
    vocabulary = graph.outputs[0].type.shape[1]
    return max(
        float((ours - theirs).norm() / theirs.norm())
        for tokens, ours in mixed_step(Paged(graph, weights), vocabulary)
        for theirs in [reference_logits(reference, tokens)[-len(ours) :]]
    )


def mixed_step(engine: Engine, vocabulary: int) -> list[tuple[list[int], Tensor]]:
    """Three sequences, and the logits of their last tokens: a chunk and two decodes in one step."""
    chunked, short, long = map(Running, prompts(vocabulary, (21, 10, 39)))
    engine.step([(long, 38), (chunked, 9)])
    engine.step([(short, 9)])
    got = engine.step([(short, 1), (chunked, 12), (long, 1)])
    return [(s.tokens, rows) for s, rows in zip((short, chunked, long), got, strict=True)]


def reference_logits(reference: PreTrainedModel, tokens: list[int]) -> Tensor:
    """Transformers' logits of one sequence."""
    with torch.no_grad():
        return reference(input_ids=torch.tensor([tokens]), use_cache=False).logits[0]


def greedy(graph: Graph, weights: Mapping[str, Tensor], starts: Sequence[list[int]], count: int):
    """``count`` greedy tokens for each prompt, all sequences in the same steps."""
    return greedy_on(Paged(graph, weights), starts, count)


def greedy_on(engine: Engine, starts: Sequence[list[int]], count: int) -> list[list[int]]:
    """As :func:`greedy`, of an engine that has not run yet."""
    sequences = [Running(list(tokens)) for tokens in starts]
    engine.step([(sequences[0], len(starts[0]) // 2)])  # one prompt comes in two chunks
    logits = engine.step([(s, len(s.tokens) - s.done) for s in sequences], last_only=True)
    out: list[list[int]] = [[] for _ in sequences]
    for turn in range(count):
        for sequence, row, tokens in zip(sequences, logits, out, strict=True):
            tokens.append(int(row[-1].argmax()))
            sequence.tokens.append(tokens[-1])
        if turn + 1 < count:
            logits = engine.step([(sequence, 1) for sequence in sequences])
    return out


def chooses_clearly(reference: PreTrainedModel, prompt: list[int], tokens: list[int]) -> bool:
    """Whether each of these greedy tokens wins by more than float32 can be wrong."""
    logits = reference_logits(reference, prompt + tokens)[len(prompt) - 1 : -1]
    best = logits.topk(2).values
    return bool((best[:, 0] - best[:, 1] > 1e-3).all())


def generated(reference: PreTrainedModel, tokens: list[int], count: int) -> list[int]:
    """Transformers' own greedy tokens, with its own cache."""
    with torch.no_grad(), quiet():
        out = reference.generate(
            torch.tensor([tokens]),
            attention_mask=torch.ones(1, len(tokens), dtype=torch.int64),
            max_new_tokens=count,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )
    return out[0, len(tokens) :].tolist()

"""The small decoder as an artifact with compiled kernels, and steps to run it with."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from graphopt.artifact import Artifact, ModelInfo, read_artifact, write_artifact
from graphopt.contents_api import Compiled, contents_of
from graphopt.embedding import Embedding
from graphopt.frontend.arrays import weight_loader
from graphopt.ir.dtype import DType
from graphopt.ir.printer import print_graph
from graphopt.ir.types import StateType
from graphopt.isa import Isa, host_isa
from graphopt.passes.manager import PassContext
from graphopt.passes.pipeline import decoder_pipeline
from graphopt.plan import Limits, Plan
from graphopt.progress import silent
from graphopt.runtime.executor import StepInputs
from graphopt.stages import lower
from graphopt.target import Target

from .tiny_decoder import VOCAB, decoder, weights_of

BLOCK = 4


@dataclass(frozen=True)
class Nowhere:
    """A model that comes from an empty folder."""

    folder: Path
    generation_config: Mapping[str, Any] = field(default_factory=lambda: {"eos_token_id": 3})


def compiled_decoder(
    dtype: DType = DType.F32, quantize: str | None = None, embedding: Embedding | None = None
) -> Compiled:
    """The decoder after all passes, with the text of its kernels."""
    graph, context = decoder(dtype, embedding), PassContext()
    lowered = lower(graph, decoder_pipeline(quantize=quantize), Target("cpu"), context)
    native, memory = lowered.native, lowered.memory
    assert native is not None
    state = next(value.type for value in graph.inputs if isinstance(value.type, StateType))
    plan = Plan(
        name="tiny",
        target="cpu",
        dtype=dtype,
        block_size=BLOCK,
        state=state,
        limits=Limits(48, VOCAB, max_rows=16 if embedding is None else 48),
        inputs=memory.inputs,
        output=memory.output,
        slots=memory.slots,
        pieces=lowered.pieces,
        layouts=native.layouts,
        scratch_bytes=native.scratch_bytes(lowered.pieces),
        embedding=embedding,
    )
    constants = lowered.hoisted.constants
    return Compiled(
        plan=plan,
        graph=lowered.graph,
        stages={"traced": print_graph(graph), "constants": print_graph(constants)},
        ledger=context.ledger,
        model=ModelInfo("tiny", "TinyForCausalLM", "tiny", 1),
        load=weight_loader(lowered.graph, None, weights_of(graph), constants),
        reports=lowered.reports,
        last_rewrite=context.last,
        seconds=lowered.seconds,
        kernels=native.sources(lowered.pieces),
    )


def write_native(
    path: Path,
    *,
    dtype: DType = DType.F32,
    quantize: str | None = None,
    isas: Sequence[Isa] | None = None,
    embedding: Embedding | None = None,
) -> Artifact:
    """The decoder's artifact at ``path``, with kernels for ``isas``; by default for this CPU."""
    compiled = compiled_decoder(dtype, quantize, embedding)
    path.parent.mkdir(parents=True, exist_ok=True)
    source = Nowhere(path.parent / f"{path.name}-source")
    source.folder.mkdir()
    write_artifact(path, contents_of(source, compiled, {}, isas or [host_isa()], silent))
    return read_artifact(path)


@dataclass(frozen=True, slots=True)
class Run:
    """New tokens of one sequence: all its tokens, where the new ones start, and its blocks."""

    tokens: Sequence[int]
    start: int
    blocks: Sequence[int]
    all_rows: bool = True


@cache
def threads_here() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0))


def batch(*runs: Run) -> StepInputs:
    """A step with new tokens of several sequences, which see all of their own that there are."""
    ids, positions, slots, rows, starts = [], [], [], [], [0]
    for one in runs:
        table = np.array(one.blocks)
        place = np.arange(one.start, len(one.tokens))
        ids += list(one.tokens[one.start :])
        positions += place.tolist()
        slots += (table[place // BLOCK] * BLOCK + place % BLOCK).tolist()
        rows += list(range(starts[-1], len(ids))) if one.all_rows else []
        starts.append(len(ids))
    widest = max(len(one.blocks) for one in runs)
    tables = np.zeros((len(runs), widest), dtype=np.int32)
    for row, one in zip(tables, runs, strict=True):
        row[: len(one.blocks)] = one.blocks
    lengths = np.array([len(one.tokens) for one in runs], dtype=np.int32)
    return StepInputs(
        token_ids=np.array(ids, dtype=np.int64),
        positions=np.array(positions, dtype=np.int64),
        rows=np.array(rows, dtype=np.int64),
        slots=np.array(slots, dtype=np.int64),
        starts=np.array(starts, dtype=np.int32),
        lengths=lengths,
        tables=tables,
        reaches=np.repeat(lengths, np.diff(starts)),
    )

"""From an artifact to an engine that is ready: checks, memory, words, weights.

``LLM`` and the server's engine process open a model alike, through ``load_engine``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import ExitStack, closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from graphopt.artifact import Artifact, read_artifact
from graphopt.embedding import Embedding
from graphopt.errors import ArtifactError, UsageError
from graphopt.plan import CPP, Plan
from graphopt.progress import ProgressFn, silent

from .capture_trace import TraceRecorder
from .determinism import demand_deterministic
from .engine import Engine, EngineConfig
from .executor import Executor
from .executors.slots import as_f32
from .gpu_setup import GpuOptions, GpuSetup, is_for_gpu, open_gpu
from .grammar import Vocabulary
from .matcher import Matchers
from .policies import make_policy
from .pooling import Pooling, wants_all_rows
from .prefix_cache import Scope, reason_without
from .preflight import MemoryNeed, preflight
from .scheduler import SchedulerLimits
from .tokenizer import Tokenizer
from .words import Words

# Without a measurement of the machine: enough sequences to amortise reading the weights, and
# chunks long enough for matrix products to be bound by arithmetic. A GPU takes more of both. What
# becomes a vector is often a line: of texts a step takes as many as on a GPU.
DEFAULT_MAX_NUM_SEQS = 64
DEFAULT_MAX_NUM_BATCHED_TOKENS = 1024
GPU_MAX_NUM_SEQS = 256
GPU_MAX_NUM_BATCHED_TOKENS = 2048


class Model(Protocol):
    """What is needed of an artifact besides the weights."""

    @property
    def plan(self) -> Plan:
        """What runs."""

    @property
    def weight_bytes(self) -> int:
        """Size of the weights."""

    @property
    def generation_defaults(self) -> Mapping[str, Any]:
        """Contents of generation_config.json."""

    @property
    def tokenizer_dir(self) -> Path | None:
        """Folder with tokenizer.json, if there is one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadOptions:
    """How a model is opened: plain data, so that it can be sent to another process.

    They are the arguments of ``LLM`` that have these names, and mean what they mean there.
    """

    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    kv_cache_memory: int | None = None
    gpu_memory_utilization: float | None = None
    max_model_len: int | None = None
    generation_config: str | Path = "auto"
    scheduling_policy: str = "fcfs"
    enable_prefix_caching: bool = True
    seed: int | None = None
    threads: int | None = None
    weights: Literal["mmap", "copy"] = "mmap"
    capture_trace: str | Path | None = None
    record_trace: str | Path | None = None
    deterministic: bool = False
    lazy_captures: bool = False
    watchdog_seconds: float | None = None
    unmarked_captures: bool = False

    @property
    def on_gpu(self) -> GpuOptions:
        """What is asked of a GPU."""
        return GpuOptions(
            self.gpu_memory_utilization,
            self.capture_trace,
            self.lazy_captures,
            self.watchdog_seconds,
            self.unmarked_captures,
        )


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model that is open.

    Attributes:
        plan: what it was compiled to.
        limits: what a step may hold.
        engine: runs it.
        words: its tokenizer and defaults.
        memory: what the memory is used for.
        recorder: writes the trace of the steps, if one is recorded.
    """

    plan: Plan
    limits: SchedulerLimits
    engine: Engine
    words: Words
    memory: MemoryNeed
    recorder: TraceRecorder | None

    def close(self) -> None:
        """Give all memory back; what is unfinished is dropped.

        Raises:
            MachineError: the trace that was recorded is not complete; all else is done.
        """
        self.engine.close()
        if self.recorder is not None:
            self.recorder.close()


def load_engine(
    artifact: str | Path | Artifact | Model,
    options: LoadOptions,
    *,
    executor: Executor | None = None,
    gives_text: bool = True,
    progress: ProgressFn | None = None,
) -> Loaded:
    """Open a model.

    Args:
        artifact: a folder written by ``graphopt compile``, or one that was opened.
        options: how.
        executor: runs the plan; chosen by what the plan needs if None.
        gives_text: whether the engine turns tokens into text and knows stop strings.
        progress: told how far loading is.

    Raises:
        ArtifactError: the artifact is damaged or does not fit this version.
        MachineError: it does not fit into memory; a knob is named.
        UsageError: an option makes no sense.
    """
    report = progress or silent
    report("checking the artifact", 0, 0)
    model = read_artifact(artifact) if isinstance(artifact, str | Path) else artifact
    limits = engine_limits(
        model.plan, options.max_num_seqs, options.max_num_batched_tokens, options.max_model_len
    )
    on_gpu = options.on_gpu
    on_gpu.demand_gpu(model.plan)
    if options.deterministic:
        demand_deterministic(model.plan)
    with ExitStack() as undone:  # what is open already is closed if the rest fails
        gpu = None if executor else _open_gpu(model, limits, on_gpu, options.kv_cache_memory)
        undone.enter_context(closing(gpu.device) if gpu else nullcontext())
        memory = _memory_of(model, limits, options, gpu)
        report(f"memory: {memory}", 0, 0)
        words = _words_of(model, options, report)
        seed = int.from_bytes(os.urandom(8)) if options.seed is None else options.seed
        scope = _prefix_scope(model.plan, options, report)
        config = EngineConfig(limits, memory.num_blocks, words.eos, seed, scope)
        policy = make_policy(options.scheduling_policy)
        recorder = None if options.record_trace is None else TraceRecorder(options.record_trace)
        undone.enter_context(closing(recorder) if recorder else nullcontext())
        report("loading the weights", 0, 0)
        engine = Engine(
            executor or (gpu.executor(report) if gpu else _executor_for(model, options)),
            config,
            decoder=words.tokenizer if gives_text else None,
            policy=policy,
            observe=recorder.record if recorder else None,
            matchers=_matchers(words.tokenizer, model.plan.limits.vocab_size),
            pooling=_pooling_of(model),
        )
        undone.pop_all()
    return Loaded(model.plan, limits, engine, words, memory, recorder)


def engine_limits(
    plan: Plan,
    num_seqs: int | None = None,
    num_tokens: int | None = None,
    model_len: int | None = None,
) -> SchedulerLimits:
    """What a step may hold: what is asked for, or as much as suits the plan.

    Where a text is computed in one step, a full context fits one: unless something else is asked
    for, a step is made larger for it, and the context no longer than a step can be.

    Raises:
        UsageError: the plan cannot hold what is asked for.
    """
    most = plan.limits
    if model_len is not None and model_len > most.max_model_len:
        raise UsageError(
            "max_model_len is beyond what the artifact was compiled for",
            got=model_len,
            expected=f"at most {most.max_model_len}",
            next="compile the checkpoint again with --max-model-len",
        )
    if num_seqs is not None and num_seqs > most.max_rows:
        raise UsageError(
            "max_num_seqs is more than a step of this artifact holds",
            got=num_seqs,
            expected=f"at most {most.max_rows}",
        )
    usual_seqs, usual_tokens = DEFAULT_MAX_NUM_SEQS, DEFAULT_MAX_NUM_BATCHED_TOKENS
    if is_for_gpu(plan):
        usual_seqs, usual_tokens = GPU_MAX_NUM_SEQS, GPU_MAX_NUM_BATCHED_TOKENS
    if plan.embedding is not None:
        usual_seqs = GPU_MAX_NUM_SEQS
    longest = most.max_model_len if model_len is None else model_len
    if plan.embedding is not None and plan.embedding.whole:
        longest = _longest_text(plan, plan.embedding, model_len, num_tokens)
        usual_tokens = max(usual_tokens, longest)
    if num_tokens is None:
        num_tokens = max(usual_tokens, num_seqs or 0)
    if num_seqs is None:
        num_seqs = max(1, min(usual_seqs, most.max_rows, num_tokens))
    return SchedulerLimits(num_seqs, num_tokens, most.max_rows, longest)


def _longest_text(
    plan: Plan, embedding: Embedding, model_len: int | None, num_tokens: int | None
) -> int:
    """The longest text that a step can hold, or what is asked for.

    Raises:
        UsageError: no step can hold what is asked for.
    """
    most = plan.limits
    rows = most.max_rows if wants_all_rows(embedding) else most.max_model_len
    if model_len is None:
        return min(most.max_model_len, rows, num_tokens or most.max_model_len)
    for what, size in (("max_num_batched_tokens", num_tokens), ("the artifact's max_rows", rows)):
        if size is not None and model_len > size:
            raise UsageError(
                "this model computes a text in one step, and max_model_len does not fit one",
                got=f"max_model_len {model_len}, {what} {size}",
                next=f"lower max_model_len to {size}"
                + (", or raise max_num_batched_tokens" if size == num_tokens else ""),
            )
    return model_len


def _pooling_of(model: Model) -> Pooling | None:
    """What makes vectors of rows, with the weights of its layers; None for a model that generates.

    Raises:
        ArtifactError: a weight is missing, or has another shape.
    """
    if model.plan.embedding is None or not isinstance(model, Artifact):
        return None
    weights = model.weights
    return Pooling(
        model.plan.embedding, lambda name: as_f32(weights.view(name), weights.dtype(name))
    )


def _matchers(tokenizer: Tokenizer | None, vocab_size: int) -> Matchers | None:
    """What follows constrained samples; its vocabulary is made when a constraint comes."""
    if tokenizer is None:
        return None
    return Matchers(lambda: Vocabulary.of(tokenizer, vocab_size))


def _prefix_scope(plan: Plan, options: LoadOptions, report: ProgressFn) -> Scope:
    """Who finds what was computed before; why nobody does is reported, if it is no choice."""
    reason = reason_without(plan.state, plan.embedding)
    if reason is not None:
        report(f"prefix cache: off, for {reason}", 0, 0)
        return Scope.NONE
    return Scope.ALL if options.enable_prefix_caching else Scope.REQUEST


def _words_of(model: Model, options: LoadOptions, report: ProgressFn) -> Words:
    """The tokenizer, the sampling defaults and the tokens that end a sample."""
    report("loading the tokenizer", 0, 0)
    return Words.load(
        model.tokenizer_dir,
        model.generation_defaults,
        model.plan.limits.vocab_size,
        options.generation_config,
    )


def _open_gpu(
    model: Model, limits: SchedulerLimits, options: GpuOptions, kv_cache_memory: int | None
) -> GpuSetup | None:
    """The GPU that a model runs on; None if it runs on a CPU."""
    if not is_for_gpu(model.plan) or not isinstance(model, Artifact):
        return None
    return open_gpu(model, limits, options, kv_cache_memory)


def _memory_of(
    model: Model, limits: SchedulerLimits, options: LoadOptions, gpu: GpuSetup | None
) -> MemoryNeed:
    """What the memory is used for, which is there."""
    return preflight(
        model.plan,
        model.weight_bytes + (gpu.unpacked_bytes if gpu else 0),
        limits,
        kv_cache_memory=options.kv_cache_memory,
        needs_full_context=options.max_model_len is not None,
        room=gpu.room if gpu else None,
        step_bytes=gpu.step_bytes if gpu else None,
    )


def _executor_for(model: Model, options: LoadOptions) -> Executor:
    """The executor that runs all of the plan's steps."""
    backends = model.plan.backends()
    if CPP in backends and backends <= {CPP, "torch"} and isinstance(model, Artifact):
        from .executors.cpp import CppExecutor

        return CppExecutor(model, threads=options.threads, weights=options.weights)
    if backends <= {"torch"} and isinstance(model, Artifact):
        from .executors.torch import TorchExecutor

        return TorchExecutor(model)
    raise ArtifactError(
        "there is no executor for this plan",
        got=", ".join(sorted(backends)),
        expected="cpp, torch",
        next="compile the checkpoint again with this version",
    )

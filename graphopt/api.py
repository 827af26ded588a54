"""Wires the layers together: a checkpoint through frontend, passes and codegen to an artifact.

Nothing here decides anything; each call hands one layer's result to the next.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphopt.artifact import (
    Artifact,
    ModelInfo,
    is_artifact,
    read_artifact,
    writable_place,
    write_artifact,
)
from graphopt.attention_variant import AttentionVariant, with_variant
from graphopt.cache import ArtifactCache, checkpoint_factors, source_factor
from graphopt.config import EMBED, GENERATE, CompileOptions
from graphopt.contents_api import Compiled, contents_of, parameters, versions
from graphopt.embedding_api import Embeds, check_task, embeds, width_of
from graphopt.errors import ArtifactError, MachineError, UsageError
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph
from graphopt.ir.types import StateType
from graphopt.isa import Isa, isas_of
from graphopt.plan import Limits, Plan
from graphopt.progress import ProgressFn, silent
from graphopt.reuse import reused
from graphopt.runtime import llm
from graphopt.stages import GpuOptions, Lowered, check_names, kernel_notes, lower
from graphopt.target import Target

if TYPE_CHECKING:
    from graphopt.frontend.checkpoint import Checkpoint
    from graphopt.frontend.hf import Decoder
    from graphopt.frontend.trace import Traced
    from graphopt.passes.manager import Observe
    from graphopt.runtime.executors.verification import VerifyReport

# Logits of one step take at most this many bytes, which bounds the rows that scoring asks for.
MAX_LOGITS_BYTES = 1 << 28
MAX_ROWS = 1024
# Rows of a step that become vectors: every token of it is wanted.
MAX_EMBEDDED_ROWS = 16384
_COMPILE_OPTIONS = {
    "target",
    "dtype",
    "block_size",
    "quantize",
    "isa",
    "allow_unproven",
    "dependent_launch",
    "task",
    "kv_dtype",
    "pooling",
    "normalize",
}
# What verification runs when it is given nothing: prose, code, digits and a sign outside ASCII.
VERIFICATION_TEXT = (
    "Return the number of items in a container, such as a list or 3.14 naïve strings.\n"
    "def main(argv=None):\n    for name in sorted(argv or []):\n        print(name)\n"
)
VERIFICATION_TOKENS = 48


@dataclass(frozen=True)
class Outcome:
    """An artifact, and how it came about.

    Attributes:
        artifact: the artifact.
        compiled: what was written into it; None if it was there already.
    """

    artifact: Artifact
    compiled: Compiled | None


def compile_options(
    *,
    target: str = "cpu",
    dtype: str = "auto",
    max_model_len: int | None = None,
    block_size: int = 16,
    quantize: str | None = None,
    isa: str = "host",
    allow_unproven: bool = False,
    attention: AttentionVariant | None = None,
    disabled_passes: Sequence[str] = (),
    pass_fuel: int | None = None,
    deterministic: bool = False,
    dependent_launch: bool = False,
    task: str = "auto",
    kv_dtype: str = "auto",
    pooling: str = "auto",
    normalize: bool | None = None,
) -> CompileOptions:
    """Options as a user writes them, checked.

    ``attention`` is a variant that :func:`graphopt.attention` made, for all layers.

    Raises:
        UsageError: a value is unknown or out of range.
        UnsupportedError: a value is known but not supported.
    """
    options = CompileOptions(
        Target.parse(target),
        dtype,
        max_model_len,
        block_size,
        quantize,
        isa,
        allow_unproven,
        attention.score if attention else "",
        attention.mask if attention else "",
        tuple(sorted(set(disabled_passes))),
        pass_fuel,
        deterministic,
        dependent_launch,
        task,
        kv_dtype,
        pooling,
        normalize,
    )
    options.check()
    return options


def pass_names() -> tuple[str, ...]:
    """The passes of a decoder, in order."""
    from graphopt.passes.pipeline import decoder_pipeline

    return tuple(one.name for one in decoder_pipeline())


def compile_checkpoint(
    checkpoint: str | Path,
    output: str | Path | None = None,
    *,
    keep_stages: bool = False,
    reuse: bool = True,
    progress: ProgressFn | None = None,
    **options: Any,
) -> Artifact:
    """Compile a Hugging Face checkpoint into an artifact.

    What was compiled before from the same files, options and versions is taken as it is: from the
    output itself, or from the cache.

    Args:
        checkpoint: a folder, or a hub name that is in the local hub cache.
        output: folder of the artifact; None for graphopt's cache.
        keep_stages: also keep the graph's text after each pass; nothing is reused then.
        reuse: take an artifact made of the same facts if it is there.
        progress: told how far the work is.
        **options: see :func:`compile_options`.

    Raises:
        GraphoptError: with what, where, got, expected and what to do next.

    Example:
        >>> compile_checkpoint("examples/demo-llama", "demo.gopt", dtype="float32")
    """
    return compile_reported(
        checkpoint,
        output,
        keep_stages=keep_stages,
        reuse=reuse,
        progress=progress,
        **options,
    ).artifact


def compile_reported(
    checkpoint: str | Path,
    output: str | Path | None = None,
    *,
    keep_stages: bool = False,
    reuse: bool = True,
    observe: Observe | None = None,
    progress: ProgressFn | None = None,
    **options: Any,
) -> Outcome:
    """As :func:`compile_checkpoint`, and what the passes did.

    Args:
        checkpoint: a folder, or a hub name that is in the local hub cache.
        output: folder of the artifact; None for graphopt's cache.
        keep_stages: also keep the graph's text after each pass; nothing is reused then.
        reuse: take an artifact made of the same facts if it is there.
        observe: called after each pass with its name and the graphs before and after it; nothing
            is reused then.
        progress: told how far the work is.
        **options: see :func:`compile_options`.

    Raises:
        GraphoptError: with what, where, got, expected and what to do next.
    """
    from graphopt.frontend.location import find_folder

    chosen = compile_options(**options)
    folder = find_folder(checkpoint)
    factors = factors_of(folder, chosen)
    cached = ArtifactCache().path_for(factors)
    path = Path(output) if output is not None else cached
    if reuse and observe is None and not keep_stages:
        found = reused(path, cached, factors)
        if found is not None:
            return Outcome(found, None)
    if sys.flags.optimize > 1:
        raise MachineError(
            "transformers cannot be used without docstrings, which python -OO strips",
            next="run without -OO and PYTHONOPTIMIZE=2; -O is fine",
        )
    from graphopt.frontend.checkpoint import Checkpoint

    source = Checkpoint.open(folder, task=chosen.task)
    if chosen.target.kind == "cuda":
        from graphopt.codegen.triton.ahead import demand_triton

        demand_triton()
    writable_place(path)
    compiled = compile_graph(
        source, chosen, keep_stages=keep_stages, observe=observe, progress=progress
    )
    contents = contents_of(source, compiled, factors, isas_for(chosen), progress or silent)
    write_artifact(path, contents)
    took = {**compiled.seconds, **contents.seconds}
    return Outcome(read_artifact(path, check_digests=False), replace(compiled, seconds=took))


def compile_graph(
    source: Checkpoint,
    options: CompileOptions,
    *,
    keep_stages: bool = False,
    observe: Observe | None = None,
    progress: ProgressFn | None = None,
) -> Compiled:
    """Trace, rewrite and plan a checkpoint, reading only the headers of its weights."""
    from graphopt.frontend.arrays import weight_loader
    from graphopt.frontend.conversion import bind
    from graphopt.ir.printer import print_graph
    from graphopt.passes.manager import PassContext
    from graphopt.passes.pipeline import decoder_pipeline
    from graphopt.passes.quantize import kept_notes

    report, disabled = progress or silent, frozenset(options.disabled_passes)
    # Before the work, not after it.
    check_task(source, options)
    kv_dtype = None if options.kv_dtype == "auto" else options.kv_dtype
    check_names(decoder_pipeline(quantize=options.quantize, kv_dtype=kv_dtype), disabled)
    report("tracing the model", 0, 0)
    started, dtype = time.perf_counter(), compute_dtype(source, options)
    made, traced = embeds(source, _traced(source, dtype, options), options)
    binding = bind(traced.model, source, used=traced.weights if made else None)
    limits = limits_of(traced.graph, traced.max_model_len, traced.vocabulary if made else None)
    tracing = time.perf_counter() - started
    report("rewriting the graph", 0, 0)
    context, stages = PassContext(fuel=options.pass_fuel), {"traced": print_graph(traced.graph)}
    lowered = lower(
        traced.graph,
        decoder_pipeline(
            traced.scalars,
            options.quantize,
            weight_only=options.target.kind == "cuda",
            kv_dtype=kv_dtype,
        ),
        options.target,
        context,
        disabled=disabled,
        observe=_keeper(stages, observe, all_stages=keep_stages),
        gpu=gpu_options(options, limits, report, embeds=made is not None),
    )
    graph, constants = lowered.graph, lowered.hoisted.constants
    stages["constants"] = print_graph(constants)
    unrounded = kept_notes(context.ledger.entries)
    return Compiled(
        plan_of(source.folder.name, options, dtype, lowered, limits, made),
        graph,
        stages,
        context.ledger,
        _model_info(source, graph, [*traced.notes, *kernel_notes(lowered), *unrounded]),
        weight_loader(graph, binding, traced.constants, constants),
        lowered.reports,
        context.last,
        {"tracing": tracing, **lowered.seconds},
        kernel_sources(lowered),
        kernel_cubins(lowered),
        made.weights if made else {},
    )


def _keeper(stages: dict[str, str], observe: Observe | None, *, all_stages: bool) -> Observe:
    """Puts the text of graphs after passes into ``stages``, and tells ``observe``."""
    from graphopt.ir.printer import print_graph

    def keep(name: str, before: Graph, stage: Graph) -> None:
        if all_stages:
            stages[name] = print_graph(stage)
        if name == "inline-scalars":  # what was inlined is no weight that could be run with
            stages["traced"] = print_graph(stage)
        if observe is not None:
            observe(name, before, stage)

    return keep


def _traced(source: Checkpoint, dtype: DType, options: CompileOptions) -> Traced:
    """The model's graph; what the passes make of its twin is held against transformers.

    A variant of attention comes in afterwards, since transformers knows nothing of it.
    """
    from graphopt.frontend.trace import trace

    disabled = frozenset(options.disabled_passes)
    traced = trace(
        source.config,
        dtype=dtype,
        task=source.task,
        max_model_len=options.max_model_len,
        allow_unproven=options.allow_unproven,
        rewrite=partial(_passes_on, disabled=disabled, fuel=options.pass_fuel),
    )
    if not (options.score or options.mask):
        return traced
    variant = AttentionVariant(options.score, options.mask)
    return replace(traced, graph=with_variant(traced.graph, variant))


def compute_dtype(source: Checkpoint, options: CompileOptions) -> DType:
    """The element type to compute in."""
    return source.dtype if options.dtype == "auto" else DType.from_torch_name(options.dtype)


def plan_of(
    name: str,
    options: CompileOptions,
    dtype: DType,
    lowered: Lowered,
    limits: Limits,
    made: Embeds | None = None,
) -> Plan:
    """The plan that a lowered model runs by."""
    graph, memory = lowered.graph, lowered.memory
    return Plan(
        name=name,
        target=str(options.target),
        dtype=dtype,
        block_size=options.block_size,
        state=_state(graph),
        limits=limits,
        inputs=memory.inputs,
        output=memory.output,
        slots=memory.slots,
        pieces=lowered.pieces,
        layouts=lowered.native.layouts if lowered.native else {},
        scratch_bytes=lowered.native.scratch_bytes(lowered.pieces) if lowered.native else 0,
        deterministic=options.deterministic,
        embedding=made.embedding if made else None,
    )


def kernel_sources(lowered: Lowered) -> dict[str, str]:
    """Source files of a lowered model's kernels, by name."""
    return lowered.native.sources(lowered.pieces) if lowered.native else {}


def kernel_cubins(lowered: Lowered) -> dict[str, bytes]:
    """Files of a lowered model's kernels that are compiled already, by place among them."""
    from graphopt.codegen.triton.backend import TritonBackend

    native = lowered.native
    return native.files(lowered.pieces) if isinstance(native, TritonBackend) else {}


def gpu_options(
    options: CompileOptions, limits: Limits, progress: ProgressFn, *, embeds: bool = False
) -> GpuOptions | None:
    """What kernels are compiled for besides the target; None for a CPU."""
    if options.target.kind != "cuda":
        return None
    blocks = -(-limits.max_model_len // options.block_size)
    most = {"R": max(MAX_ROWS, limits.max_rows), "P": blocks}
    return GpuOptions(
        options.block_size,
        most,
        progress,
        options.deterministic,
        options.dependent_launch,
        embeds,
    )


def isas_for(options: CompileOptions) -> tuple[Isa, ...]:
    """The instruction sets of CPUs that an artifact gets kernels for."""
    return isas_of(options.target.arch, options.isa) if options.target.kind == "cpu" else ()


def _passes_on(decoder: Decoder, *, disabled: frozenset[str], fuel: int | None) -> Graph:
    """What the passes make of a traced decoder, constants left in place."""
    from graphopt.passes.manager import PassContext, run_passes
    from graphopt.passes.pipeline import decoder_pipeline

    pipeline = decoder_pipeline(decoder.scalars)
    passes = disabled & {one.name for one in pipeline}
    graph, _ = run_passes(decoder.graph, pipeline, PassContext(fuel=fuel), disabled=passes)
    return graph


def open_artifact(
    path: str | Path, *, progress: ProgressFn | None = None, **options: Any
) -> Artifact:
    """An artifact that is read and checked, or a checkpoint compiled into the cache first.

    Args:
        path: a folder, or a hub name of a checkpoint.
        progress: told how far the work is.
        **options: see :func:`compile_options`; an artifact must have been compiled for the
            ``dtype`` and ``target`` given here, the others matter to a checkpoint only.

    Raises:
        GraphoptError: it is neither, or is damaged, or does not fit.
    """
    folder = Path(path)
    if is_artifact(folder) or folder.suffix == ".gopt":
        wanted = compile_options(**options)
        expect = {} if wanted.dtype == "auto" else {"dtype": wanted.dtype}
        if "target" in options:
            expect["target"] = str(wanted.target)
        return read_artifact(folder, expect=expect)
    from graphopt.frontend.location import find_folder

    cached = ArtifactCache().path_for(factors_of(find_folder(path), compile_options(**options)))
    if is_artifact(cached):
        try:
            return read_artifact(cached)
        except ArtifactError:  # damaged, and at hand is what it was made from
            (progress or silent)("compiling again, for what is cached is damaged", 0, 0)
    return compile_checkpoint(path, cached, reuse=False, progress=progress, **options)


def factors_of(checkpoint: Path, options: CompileOptions) -> dict[str, str]:
    """Everything that an artifact depends on, by name: the cache key."""
    if options.target.kind == "cpu":
        from graphopt.codegen.cpp.build import compiler_version

        compiler = compiler_version()
    else:
        from graphopt.codegen.triton.ahead import triton_version

        compiler = f"triton {triton_version()}"
    return {
        **checkpoint_factors(checkpoint),
        **options.factors(),
        "isa": ", ".join(isa.name for isa in isas_for(options)),
        **versions(),
        "compiler": compiler,
        "source": source_factor(),
    }


def _state(graph: Graph) -> StateType:
    states = [value.type for value in graph.inputs if isinstance(value.type, StateType)]
    return states[0]


def limits_of(graph: Graph, max_model_len: int, vocabulary: int | None = None) -> Limits:
    """What one step of a model may hold.

    Args:
        graph: the model; its output is one row for each of R tokens.
        max_model_len: longest context in tokens.
        vocabulary: how many tokens a model that embeds knows; None where the rows are logits.
    """
    width = width_of(graph)
    most = MAX_ROWS if vocabulary is None else MAX_EMBEDDED_ROWS
    rows = max(1, min(most, MAX_LOGITS_BYTES // (4 * width)))
    return Limits(max_model_len, width if vocabulary is None else vocabulary, rows)


def _model_info(source: Checkpoint, graph: Graph, notes: Sequence[str]) -> ModelInfo:
    return ModelInfo(
        source.folder.name, source.model_class, source.model_type, parameters(graph), tuple(notes)
    )


class LLM(llm.LLM):
    """A model ready to generate, from an artifact or a checkpoint.

    A checkpoint is compiled into graphopt's cache first. Options of :func:`compile_options` apply
    to that; all others are those of :class:`graphopt.runtime.llm.LLM`.

    Example:
        >>> LLM("model.gopt").generate("def main(")[0].text
    """

    def __init__(
        self,
        path: str | Path | Artifact,
        *,
        progress: ProgressFn | None = None,
        **options: Any,
    ) -> None:
        chosen = {name: options.pop(name) for name in _COMPILE_OPTIONS & options.keys()}
        if options.get("deterministic"):
            chosen["deterministic"] = True  # the kernels too, of a checkpoint
        if not isinstance(path, Artifact):
            path = open_artifact(
                path, progress=progress, max_model_len=options.get("max_model_len"), **chosen
            )
        super().__init__(path, progress=progress, **options)


def verify_artifact(
    path: str | Path,
    *,
    reference: str | Path | None = None,
    tokens: Sequence[int] | None = None,
    text: str | None = None,
    threads: int | None = None,
    progress: ProgressFn | None = None,
) -> VerifyReport:
    """Compare an artifact's plan with the interpreter, and with transformers if asked.

    Args:
        path: the artifact.
        reference: the checkpoint it was compiled from.
        tokens: what to run on; by default ``text`` through the tokenizer.
        text: by default a few lines of prose and code.
        threads: how many run compiled kernels; None for one per physical core.
        progress: told what is running.

    Raises:
        GraphoptError: the artifact or the checkpoint cannot be read, or the tokens do not fit.
    """
    from graphopt.runtime.executors.verification import verify_plan

    artifact = read_artifact(path)
    if tokens is None:
        tokens = _verification_tokens(artifact, text)
    oracle = None
    if reference is not None:
        from graphopt.frontend.checkpoint import Checkpoint
        from graphopt.frontend.oracle import transformers_logits

        source = Checkpoint.open(reference, task=EMBED if artifact.plan.embedding else GENERATE)
        _check_same_model(source, artifact, tokens)
        oracle = transformers_logits(source, artifact.plan.dtype)
    return verify_plan(
        artifact, tokens, reference=oracle, threads=threads, progress=progress or silent
    )


def _check_same_model(source: Checkpoint, artifact: Artifact, tokens: Sequence[int]) -> None:
    """Refuse a reference of another class, or without some of the tokens that are to run."""
    vocab_size = getattr(source.config.get_text_config(), "vocab_size", None)
    lacks = isinstance(vocab_size, int) and max(tokens, default=0) >= vocab_size
    if source.model_class != artifact.model.architecture or lacks:
        raise UsageError(
            "the reference is another model than the artifact's",
            where=str(source.folder),
            got=f"{source.model_class} with a vocabulary of {vocab_size}",
            expected=f"{artifact.model.architecture} with a vocabulary of "
            f"{artifact.plan.limits.vocab_size}",
            next="give the checkpoint that the artifact was compiled from",
        )


def _verification_tokens(artifact: Artifact, text: str | None) -> list[int]:
    """The text's tokens, or random ones for a model without a tokenizer."""
    from graphopt.runtime.tokenizer import Tokenizer

    if artifact.tokenizer_dir is not None:
        words = VERIFICATION_TEXT if text is None else text
        return list(Tokenizer.load(artifact.tokenizer_dir).encode(words))[:VERIFICATION_TOKENS]
    if text is not None:
        raise UsageError(
            "this artifact has no tokenizer", got="a text", next="give token ids instead"
        )
    import numpy as np

    limit = artifact.plan.limits.vocab_size
    return [int(i) for i in np.random.default_rng(0).integers(0, limit, VERIFICATION_TOKENS)]

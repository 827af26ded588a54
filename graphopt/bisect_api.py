"""Checks the passes of a compile by numbers, and finds the rewrite that breaks them.

What is checked is the model's own graph with random weights, or where that is too large to run in
seconds, the graph of its twin: the same flags and kinds of layers, small sizes, traced by the same
code. The artifact's plan comes last, against the interpreter, step by step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from graphopt.api import compile_checkpoint, compile_options, compute_dtype
from graphopt.artifact import Artifact, read_artifact
from graphopt.config import CompileOptions
from graphopt.contents_api import versions
from graphopt.errors import CompileError, GraphoptError, UnsupportedError, UsageError
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph
from graphopt.ir.types import StateType
from graphopt.progress import ProgressFn, silent
from graphopt.stages import check_names

if TYPE_CHECKING:
    from torch import Tensor

    from graphopt.frontend.checkpoint import Checkpoint
    from graphopt.passes.bisect import Culprit
    from graphopt.passes.equivalence import Comparison
    from graphopt.passes.manager import Pass
    from graphopt.runtime.executors.verification import VerifyReport

# A checkpoint of at most so many bytes is checked itself; a larger one would take minutes.
SMALL_BYTES = 4_000_000
PLAN_TOKENS = 24


@dataclass(frozen=True, slots=True)
class PassCheck:
    """What the comparisons after one pass gave."""

    name: str
    comparisons: tuple[Comparison, ...]


@dataclass(frozen=True, slots=True)
class PassChecks:
    """The passes of a compile, checked one by one.

    Attributes:
        subject: what ran, in words.
        checks: a row for each pass that changed the graph.
    """

    subject: str
    checks: tuple[PassCheck, ...]


@dataclass(frozen=True, slots=True)
class BisectReport:
    """What a search for a wrong rewrite found.

    Attributes:
        subject: what was searched, in words.
        culprit: the rewrite to blame, in words; None if every pass is right.
        kind: ``disagrees`` or ``fails``; empty if nothing is wrong.
        fault: how it shows; empty if nothing is wrong.
        repro: the folder that shows it again; None if there is none.
        nodes: how many nodes the graph in it has.
        command: what shows it again.
        plan: the plan's steps against the interpreter, which are compared if the passes are right.
    """

    subject: str
    culprit: str | None
    kind: str = ""
    fault: str = ""
    repro: Path | None = None
    nodes: int = 0
    command: str = ""
    plan: VerifyReport | None = None

    @property
    def is_right(self) -> bool:
        """Whether nothing wrong was found."""
        return self.culprit is None and (self.plan is None or self.plan.agrees)

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "right": self.is_right,
            "subject": self.subject,
            "culprit": self.culprit,
            "kind": self.kind,
            "fault": self.fault,
            "repro": None if self.repro is None else str(self.repro),
            "nodes": self.nodes,
            "command": self.command,
            "plan": None if self.plan is None else self.plan.to_json(),
        }


@dataclass(frozen=True, slots=True)
class _Subject:
    """A graph that is small enough to run, and the passes it goes through."""

    graph: Graph
    constants: Mapping[str, Tensor]
    scalars: Mapping[str, float | int]
    what: str
    is_twin: bool

    @property
    def pipeline(self) -> Sequence[Pass]:
        from graphopt.passes.pipeline import decoder_pipeline

        return decoder_pipeline(self.scalars)


def verify_passes(
    checkpoint: str | Path, *, progress: ProgressFn | None = None, **options: Any
) -> PassChecks:
    """Compare the graph before and after each pass, see :mod:`graphopt.passes.equivalence`.

    Args:
        checkpoint: a folder, or a hub name.
        progress: told what is running.
        **options: see :func:`graphopt.api.compile_options`.

    Raises:
        CompileError: a pass is over its tolerance; the message has the pass and the numbers.
    """
    from graphopt.passes.equivalence import Comparer, checking
    from graphopt.passes.manager import PassContext, run_passes

    chosen, source = _opened(checkpoint, options)
    report = progress or silent
    report("tracing what is checked", 0, 0)
    subject = _subject(source, chosen)
    found: list[PassCheck] = []

    def heard(name: str, comparisons: Sequence[Comparison]) -> None:
        report(f"checking {name}", 0, 0)
        found.append(PassCheck(name, tuple(comparisons)))

    run_passes(
        subject.graph,
        subject.pipeline,
        PassContext(fuel=chosen.pass_fuel),
        disabled=_passes_of(subject.pipeline, chosen),
        observe=checking(Comparer(subject.graph, subject.constants), heard),
    )
    return PassChecks(subject.what, tuple(found))


def bisect_checkpoint(
    checkpoint: str | Path,
    output: str | Path | None = None,
    *,
    progress: ProgressFn | None = None,
    **options: Any,
) -> BisectReport:
    """Find the first rewrite that changes what a model computes; then check the plan.

    Args:
        checkpoint: a folder, or a hub name.
        output: folder of the repro; by default ``graphopt-repro-NAME`` in the current folder.
        progress: told what is running.
        **options: see :func:`graphopt.api.compile_options`.

    Raises:
        GraphoptError: the checkpoint cannot be traced, or the repro cannot be written.
    """
    chosen, source = _opened(checkpoint, options)
    found, subject = _search(source, chosen, output, progress or silent)
    if found.culprit is not None:
        return found
    (progress or silent)("compiling what is checked", 0, 0)
    with TemporaryDirectory() as folder:
        place = source.folder
        if subject.is_twin:
            from graphopt.frontend.twin_checkpoint import write_twin

            dtype = compute_dtype(source, chosen)
            place = write_twin(source.config, dtype, Path(folder, "twin"), source.task)
            options = {**options, "max_model_len": None, "task": source.task}
        artifact = compile_checkpoint(place, Path(folder, "a.gopt"), reuse=False, **options)
        return _with_plan(found, artifact, progress or silent)


def bisect_artifact(
    path: str | Path,
    *,
    reference: str | Path | None = None,
    output: str | Path | None = None,
    progress: ProgressFn | None = None,
) -> BisectReport:
    """As :func:`bisect_checkpoint`, for the checkpoint, the options and the plan of an artifact.

    Args:
        path: the artifact.
        reference: its checkpoint; by default where it was when the artifact was compiled.
        output: folder of the repro.
        progress: told what is running.

    Raises:
        UsageError: the checkpoint is not there.
        UnsupportedError: the artifact was made from an ONNX model.
    """
    artifact = read_artifact(path)
    factors = artifact.manifest["factors"]
    place = Path(reference if reference is not None else factors.get("checkpoint", ""))
    if reference is None and artifact.model.architecture == "ONNX":
        raise UnsupportedError(
            "the passes of an ONNX model cannot be searched",
            where=str(path),
            next="graphopt verify ARTIFACT compares the plan; --disable-pass leaves a pass out",
        )
    if reference is None and not (factors.get("checkpoint") and place.is_dir()):
        raise UsageError(
            "the checkpoint that the artifact was made from is not there",
            where=str(path),
            got=factors.get("checkpoint", "an artifact that does not name it"),
            next="say where it is with --reference CHECKPOINT",
        )
    fuel, disabled = factors.get("pass_fuel", "None"), factors.get("disabled_passes", "")
    chosen, source = _opened(
        place,
        {
            "dtype": artifact.plan.dtype.torch_name,
            "pass_fuel": int(fuel) if fuel.isdigit() else None,
            "disabled_passes": [name for name in disabled.split(", ") if name],
        },
    )
    found, _ = _search(source, chosen, output, progress or silent)
    return found if found.culprit is not None else _with_plan(found, artifact, progress or silent)


def bisect_repro(folder: str | Path) -> BisectReport:
    """See again what a repro shows, with the passes of this version.

    Raises:
        UsageError: the folder is no repro.
    """
    from graphopt.passes.pipeline import decoder_pipeline
    from graphopt.passes.repro import run_repro

    place = Path(folder)
    subject = f"the repro in {place}"
    found = run_repro(place, decoder_pipeline)
    if found is None:
        return BisectReport(subject, None)
    return BisectReport(
        subject,
        found.rewrite,
        found.fault.kind,
        found.fault.what,
        place,
        len(found.graph.nodes),
        _command(place),
    )


def is_repro(folder: str | Path) -> bool:
    """Whether a folder was written by one of the searches."""
    from graphopt.passes import repro

    return repro.is_repro(Path(folder))


def _opened(
    checkpoint: str | Path, options: Mapping[str, Any]
) -> tuple[CompileOptions, Checkpoint]:
    from graphopt.frontend.checkpoint import Checkpoint

    chosen = compile_options(**options)
    return chosen, Checkpoint.open(checkpoint, task=chosen.task)


def _subject(source: Checkpoint, options: CompileOptions) -> _Subject:
    from graphopt.frontend.hf import trace_decoder
    from graphopt.frontend.shrink import shrink

    stored = (source.index.info(name) for name in source.index)
    is_twin = sum(tensor.nbytes for tensor in stored) > SMALL_BYTES
    config = shrink(source.config) if is_twin else source.config
    dtype = compute_dtype(source, options)
    decoder = trace_decoder(config, dtype, source.task)
    what = _words(decoder.graph, dtype, is_twin=is_twin)
    return _Subject(decoder.graph, decoder.constants, decoder.scalars, what, is_twin)


def _words(graph: Graph, dtype: DType, *, is_twin: bool) -> str:
    states = [value.type for value in graph.inputs if isinstance(value.type, StateType)]
    size = f"{sum(len(state.layers) for state in states)} layers, {dtype}"
    if is_twin:
        return f"a twin, {size}: the model's flags and kinds of layers, small sizes, random weights"
    return f"the model's own graph, {size}, random weights"


def _passes_of(pipeline: Sequence[Pass], options: CompileOptions) -> frozenset[str]:
    """The disabled passes; fusions, which come later and may be disabled too, left out."""
    disabled = frozenset(options.disabled_passes)
    check_names(pipeline, disabled)
    return disabled & {one.name for one in pipeline}


def _search(
    source: Checkpoint,
    options: CompileOptions,
    output: str | Path | None,
    progress: ProgressFn,
) -> tuple[BisectReport, _Subject]:
    from graphopt.passes.bisect import Bisection
    from graphopt.passes.equivalence import Comparer

    place = Path(output or f"graphopt-repro-{source.folder.name}")
    _free_place(place)
    progress("tracing what is searched", 0, 0)
    subject = _subject(source, options)
    progress("searching for a wrong rewrite", 0, 0)
    comparer = Comparer(subject.graph, subject.constants)
    pipeline = subject.pipeline
    disabled = _passes_of(pipeline, options)
    culprit = Bisection(
        subject.graph, pipeline, comparer, disabled=disabled, fuel=options.pass_fuel
    ).find()
    if culprit is None:
        return BisectReport(subject.what, None), subject
    progress("making the repro smaller", 0, 0)
    return _reported(culprit, subject, comparer, place), subject


def _reported(culprit: Culprit, subject: _Subject, comparer: Any, place: Path) -> BisectReport:
    from graphopt.passes.repro import minimise, write_repro

    repro = minimise(culprit, subject.pipeline, comparer)
    command = _command(place)
    write_repro(place, repro, command=command, versions=versions(), scalars=subject.scalars)
    return BisectReport(
        subject.what,
        culprit.place,
        culprit.fault.kind,
        culprit.fault.what,
        place,
        len(repro.graph.nodes),
        command,
    )


def _command(place: Path) -> str:
    return f"graphopt bisect {place}"


def _free_place(place: Path) -> None:
    """Refuse a folder that holds something else than a repro, before the work."""
    if place.exists() and not is_repro(place) and not (place.is_dir() and not any(place.iterdir())):
        raise UsageError(
            "the output exists and is not a repro",
            where=str(place),
            next="choose another folder with -o, or remove it",
        )


def _with_plan(found: BisectReport, artifact: Artifact, progress: ProgressFn) -> BisectReport:
    """The report with the plan's steps, on random tokens."""
    import numpy as np

    from graphopt.runtime.executors.verification import verify_plan

    limit = artifact.plan.limits.vocab_size
    tokens = [int(i) for i in np.random.default_rng(0).integers(0, limit, PLAN_TOKENS)]
    try:
        report = verify_plan(artifact, tokens, progress=progress)
    except GraphoptError as error:
        raise CompileError(
            "the passes are right, but the plan cannot be compared", got=str(error)
        ) from error
    return BisectReport(found.subject, None, plan=report)

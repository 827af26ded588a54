"""Wires the layers together for models of the ONNX standard: export, compile, call.

    graphopt.export_onnx("model.gopt", "model.onnx")
    graphopt.compile_onnx("model.onnx", "model.gopt")
    graphopt.load_function("encoder.gopt")(input_ids=ids)

Nothing here decides anything; each call hands one layer's result to the next.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphopt.api import (
    compile_options,
    gpu_options,
    isas_for,
    kernel_cubins,
    kernel_sources,
    limits_of,
    open_artifact,
    plan_of,
)
from graphopt.artifact import (
    Artifact,
    ArtifactFolder,
    Contents,
    ModelInfo,
    read_artifact,
    writable_place,
    write_artifact,
)
from graphopt.cache import ArtifactCache, checkpoint_factors, source_factor
from graphopt.config import EMBED, CompileOptions
from graphopt.contents_api import Compiled, contents_of, parameters, spec_of, versions
from graphopt.errors import UnsupportedError, UsageError
from graphopt.function_plan import FunctionArtifact, FunctionPlan, FunctionStep, read_function
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph
from graphopt.ir.types import TensorType, Type
from graphopt.progress import ProgressFn, silent
from graphopt.stages import form, kernel_notes, lower

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch

    from graphopt.frontend.onnx_causal import Constants
    from graphopt.frontend.onnx_model import OnnxDecoder, OnnxFunction
    from graphopt.runtime.executors.stateless import CompiledFunction

SUFFIX = ".onnx"
EXPORT_DTYPES = ("auto", "float32")
_GENERATION = "generation_config.json"


# -- export ---------------------------------------------------------------------------------------


def export_onnx(
    path: str | Path,
    output: str | Path,
    *,
    dtype: str = "auto",
    progress: ProgressFn | None = None,
    **options: Any,
) -> tuple[Path, ...]:
    """Write a decoder as an ONNX model with past and present keys and values.

    The model takes ``input_ids[batch, sequence]``, ``attention_mask[batch, total_sequence]`` and
    ``past_key_values.{layer}.key`` and ``.value``, and gives ``logits`` and ``present.{layer}.key``
    and ``.value``. Sequences of unequal length are padded on the left, where the mask is 0.

    Args:
        path: an artifact, or a checkpoint, which is compiled into the cache first.
        output: the file; large weights go into ``output.data`` beside it, and the tokenizer into
            the same folder where it has none yet.
        dtype: ``auto`` keeps the artifact's type, ``float32`` widens everything to it.
        progress: told how far the work is.
        **options: see :func:`graphopt.api.compile_options`.

    Returns:
        The files that were written.

    Raises:
        UnsupportedError: the standard has no word for something the model does; it is named.
        GraphoptError: the artifact or checkpoint cannot be read, or the file not written.

    Example:
        >>> export_onnx("model.gopt", "model.onnx")
    """
    from graphopt.frontend.onnx_file import require_onnx

    require_onnx()
    from graphopt.codegen.onnx_export import export_decoder
    from graphopt.codegen.onnx_file import save
    from graphopt.frontend.onnx_model import MAX_LENGTH
    from graphopt.ir.parser import parse_graph
    from graphopt.ir.widen import widen

    if dtype not in EXPORT_DTYPES:
        raise UsageError("no such export type", got=dtype, expected=", ".join(EXPORT_DTYPES))
    artifact = open_artifact(path, progress=progress, **options)
    if artifact.plan.embedding is not None:
        raise UnsupportedError(
            "a model that embeds cannot be exported yet",
            where=str(path),
            expected="a decoder that gives logits",
            next="sentence-transformers or optimum export it from the checkpoint",
        )
    graph = parse_graph(artifact.graph_text())
    if dtype != "auto":
        graph = widen(graph, DType.F32)
    info = {"model_type": artifact.model.model_type, "name": artifact.model.name}
    length = str(artifact.plan.limits.max_model_len)
    model = export_decoder(graph, {MAX_LENGTH: length, **info})
    load = partial(_converted, artifact, {value.name: value.type for value in graph.weights})
    files = save(model, Path(output), load, progress=progress or silent)
    return (*files, *_write_beside(artifact, Path(output).parent))


def _converted(artifact: Artifact, types: Mapping[str, Type], name: str) -> npt.NDArray[np.generic]:
    """A weight in the wanted type; wider ones hold the same numbers."""
    wanted = types[name]
    dtype = wanted.dtype if isinstance(wanted, TensorType) else artifact.weights.dtype(name)
    if artifact.weights.dtype(name) is dtype:
        return artifact.weights.view(name)
    from graphopt.frontend.arrays import as_array
    from graphopt.ir.reference_common import torch_dtype
    from graphopt.runtime.executors.torch import weight_tensor

    return as_array(weight_tensor(artifact, name).to(torch_dtype(dtype)), dtype)


def _write_beside(artifact: Artifact, folder: Path) -> Iterator[Path]:
    """The tokenizer and the sampling defaults, where the folder has none of that name."""
    import json
    import shutil

    if artifact.tokenizer_dir is not None:
        for file in sorted(artifact.tokenizer_dir.iterdir()):
            if not (folder / file.name).exists():
                shutil.copyfile(file, folder / file.name)
                yield folder / file.name
    place = folder / _GENERATION
    if artifact.generation_defaults and not place.exists():
        place.write_text(json.dumps(artifact.generation_defaults, indent=2) + "\n", "utf-8")
        yield place


# -- compile --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class OnnxSource:
    """The folder of an ONNX model, for what may lie beside it."""

    path: Path

    @property
    def folder(self) -> Path:
        """Where it is."""
        return self.path.resolve().parent if self.path.is_symlink() else self.path.parent

    @cached_property
    def generation_config(self) -> Mapping[str, Any]:
        """generation_config.json beside the model; empty if there is none."""
        from graphopt.frontend.json_file import read_object

        file = self.path.parent / _GENERATION
        return read_object(file) if file.is_file() else {}


def compile_onnx(
    path: str | Path,
    output: str | Path | None = None,
    *,
    progress: ProgressFn | None = None,
    **options: Any,
) -> ArtifactFolder:
    """Compile an ONNX model into an artifact: of a decoder if it keeps a past, else of a function.

    Args:
        path: the model; its weights, and for a decoder tokenizer.json and the configuration, are
            taken from the same folder.
        output: folder of the artifact; None for graphopt's cache.
        progress: told how far the work is.
        **options: see :func:`graphopt.api.compile_options`; the model's own types are kept.

    Returns:
        An :class:`Artifact` that :class:`LLM` runs, or a :class:`FunctionArtifact` for
        :func:`load_function`.

    Raises:
        GraphoptError: with what, where, got, expected and what to do next.

    Example:
        >>> compile_onnx("model.onnx", "model.gopt")
    """
    from graphopt.frontend.onnx_model import OnnxDecoder, read_onnx

    chosen, file = compile_options(**options), Path(path)
    if chosen.task == EMBED or chosen.pooling != "auto" or chosen.normalize is not None:
        raise UnsupportedError(
            "an ONNX model cannot be compiled for vectors yet",
            where=str(file),
            next="compile the checkpoint it was made from",
        )
    factors = _factors(file, chosen)
    place = Path(output) if output is not None else ArtifactCache().path_for(factors)
    writable_place(place)
    report = progress or silent
    report("reading the model", 0, 0)
    model = read_onnx(file, max_model_len=chosen.max_model_len)
    if isinstance(model, OnnxDecoder):
        source = OnnxSource(file)
        compiled = compile_decoder(model, chosen, progress=report)
        write_artifact(place, contents_of(source, compiled, factors, isas_for(chosen), report))
        return read_artifact(place, check_digests=False)
    if chosen.target.kind != "cpu":
        raise UnsupportedError(
            "functions are compiled for CPUs only",
            where=str(file),
            got=str(chosen.target),
            expected="cpu, or a decoder: a model that keeps a past",
        )
    write_artifact(place, _function_contents(model, chosen, factors, report))
    return read_function(place, check_digests=False)


def _factors(file: Path, options: CompileOptions) -> dict[str, str]:
    beside = checkpoint_factors(file.parent) if file.parent.is_dir() else {}
    found = file.stat() if file.is_file() else None
    size = f"{found.st_size}, {found.st_mtime_ns}" if found is not None else "absent"
    named = {**beside, "checkpoint": str(file.resolve()), "weights": size}
    return {**named, **options.factors(), **versions(), "source": source_factor()}


def compile_decoder(
    model: OnnxDecoder, options: CompileOptions, *, progress: ProgressFn
) -> Compiled:
    """Rewrite and plan a decoder that was read from an ONNX model."""
    from graphopt.frontend.arrays import weight_loader
    from graphopt.ir.printer import print_graph
    from graphopt.passes.manager import PassContext
    from graphopt.passes.pipeline import decoder_pipeline

    name, dtype = model.file.path.stem, _dtype(model.graph)
    _check_dtype(options, dtype)
    progress("rewriting the graph", 0, 0)
    context, stages = PassContext(fuel=options.pass_fuel), {"traced": print_graph(model.graph)}
    disabled = frozenset(options.disabled_passes)
    pipeline = decoder_pipeline(quantize=options.quantize)
    limits = limits_of(model.graph, model.max_model_len)
    gpu = gpu_options(options, limits, progress)
    lowered = lower(model.graph, pipeline, options.target, context, disabled=disabled, gpu=gpu)
    graph, constants = lowered.graph, lowered.hoisted.constants
    stages["constants"] = print_graph(constants)
    return Compiled(
        plan_of(name, options, dtype, lowered, limits),
        graph,
        stages,
        context.ledger,
        ModelInfo(
            name,
            "ONNX",
            model.model_type,
            parameters(graph),
            (*model.notes, *kernel_notes(lowered)),
        ),
        weight_loader(graph, None, _Tensors(model.constants), constants),
        lowered.reports,
        context.last,
        lowered.seconds,
        kernel_sources(lowered),
        kernel_cubins(lowered),
    )


def _function_contents(
    model: OnnxFunction,
    options: CompileOptions,
    factors: Mapping[str, str],
    progress: ProgressFn,
) -> Contents:
    """A function: rewritten, a kernel for each node, and its weights."""
    from graphopt.frontend.arrays import weight_loader
    from graphopt.ir.printer import print_graph
    from graphopt.passes.manager import PassContext
    from graphopt.passes.pipeline import function_pipeline

    name, dtype = model.file.path.stem, _dtype(model.imported.graph)
    _check_dtype(options, dtype)
    progress("rewriting the graph", 0, 0)
    context, traced = PassContext(fuel=options.pass_fuel), model.imported.graph
    formed = form(
        traced,
        function_pipeline(),
        options.target,
        context,
        disabled=frozenset(options.disabled_passes),
    )
    graph = formed.graph
    steps = tuple(
        FunctionStep(backend, kernel, region.nodes)
        for region, (backend, kernel) in zip(formed.regions, formed.kernels, strict=True)
    )
    folded = formed.hoisted.constants
    load = weight_loader(graph, None, _Tensors(model.imported.constants), folded)
    return Contents(
        plan=FunctionPlan(name, str(options.target), dtype, model.imported.outputs, steps),
        graph_text=print_graph(graph),
        ledger=context.ledger,
        model=ModelInfo(name, "ONNX", "function", parameters(graph)),
        weights=[spec_of(value) for value in graph.weights],
        weight_arrays=(load(value.name) for value in graph.weights),
        versions=versions(),
        factors=factors,
        extra_files={"stages/traced.ir": print_graph(traced).encode()},
    )


class _Tensors(Mapping[str, "torch.Tensor"]):
    """The weights of a model as tensors, each read when it is asked for."""

    def __init__(self, constants: Constants) -> None:
        self._constants = constants

    def __getitem__(self, name: str) -> torch.Tensor:
        from graphopt.frontend.onnx_causal import as_tensor

        return as_tensor(self._constants[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._constants)

    def __len__(self) -> int:
        return len(self._constants)


def _dtype(graph: Graph) -> DType:
    """The element type of most of a graph's weights; f32 if none of them is a float."""
    sizes: Counter[DType] = Counter()
    for _, dtype, shape in map(spec_of, graph.weights):
        if dtype.is_float:
            sizes[dtype] += 1 + len(shape) * max((1, *shape))
    return sizes.most_common(1)[0][0] if sizes else DType.F32


def _check_dtype(options: CompileOptions, dtype: DType) -> None:
    if options.dtype not in ("auto", dtype.torch_name):
        raise UsageError(
            "an ONNX model computes in the types that it is written in",
            got=f"dtype {options.dtype}",
            expected=f"auto or {dtype.torch_name}",
            next="export it again in the type you want",
        )


# -- call -----------------------------------------------------------------------------------------


def load_function(path: str | Path | FunctionArtifact) -> CompiledFunction:
    """A compiled function, ready to be called with arrays.

    Args:
        path: the artifact of a function.

    Raises:
        ArtifactError: it is no artifact, is damaged, or is a decoder's.

    Example:
        >>> load_function("encoder.gopt")(input_ids=ids)["last_hidden_state"]
    """
    from graphopt.runtime.executors.stateless import CompiledFunction

    artifact = path if isinstance(path, FunctionArtifact) else read_function(path)
    return CompiledFunction(artifact)

"""What goes into an artifact: weights as kernels read them, kernels, and a report.

before:  a compiled model, whose weights can be read one by one
after:   the contents of its artifact; weights are read, and packed, as they are written
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from graphopt.artifact import Contents, ModelInfo, TensorSpec
from graphopt.artifact_files import KERNEL_SOURCES, KERNELS
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph, Value
from graphopt.ir.types import TensorType
from graphopt.isa import Isa
from graphopt.launch import LAUNCH, LaunchKernel
from graphopt.ledger import Ledger, PassReport
from graphopt.packing import Layout
from graphopt.plan import Plan
from graphopt.progress import ProgressFn, weighed
from graphopt.weight_layout import WeightLayout, packed, stored_as

# The stage that compiles kernels, among the others whose time is told.
NATIVE = "native"


@dataclass(frozen=True)
class Compiled:
    """A checkpoint after the last pass: everything of the artifact but the weights' bytes.

    Attributes:
        plan: what runs.
        graph: what the plan computes.
        stages: text of the graph after each stage, the traced one first.
        ledger: what was decided.
        model: what the model is.
        load: gives the bytes of the weight called so.
        reports: what each pass did.
        last_rewrite: the latest rewrite that was applied, as ``rule at place``.
        seconds: how long the other stages took, by name.
        kernels: source files of the kernels, by name; none where PyTorch runs everything.
        cubins: the kernels' files where they are compiled for a GPU already.
        dense: weights of the layers that make vectors of pooled rows, in float32, by name.
    """

    plan: Plan
    graph: Graph
    stages: Mapping[str, str]
    ledger: Ledger
    model: ModelInfo
    load: Callable[[str], npt.NDArray[np.generic]]
    reports: tuple[PassReport, ...]
    last_rewrite: str
    seconds: Mapping[str, float]
    kernels: Mapping[str, str]
    cubins: Mapping[str, bytes] = field(default_factory=dict)
    dense: Mapping[str, npt.NDArray[np.float32]] = field(default_factory=dict)


class Source(Protocol):
    """Where a model comes from: a folder, which may hold a tokenizer, and sampling defaults."""

    @property
    def folder(self) -> Path: ...  # noqa: D102

    @property
    def generation_config(self) -> Mapping[str, Any]: ...  # noqa: D102


def versions() -> dict[str, str]:
    """Versions of what compiles: a part of the cache key."""
    found = {}
    for name in ("graphopt", "torch", "transformers"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "absent"
    return found


def contents_of(
    source: Source,
    compiled: Compiled,
    factors: Mapping[str, str],
    isas: Sequence[Isa],
    progress: ProgressFn,
) -> Contents:
    """What goes into the artifact of a compiled model; weights are read as they are written.

    Args:
        source: has the tokenizer and sampling defaults.
        compiled: the model.
        factors: everything that the artifact depends on, by name.
        isas: instruction sets to compile the kernels for.
        progress: told how far the work is.

    Raises:
        CompileError: a kernel does not compile.
    """
    from graphopt.ir.printer import print_graph

    layouts = compiled.plan.layouts
    within = {one.scales for one in layouts.values() if isinstance(one, Layout) and one.scales}
    kept = [value for value in compiled.graph.weights if value.name not in within]
    weights = [_stored(value, layouts) for value in kept]
    weights += [(name, DType.F32, array.shape) for name, array in compiled.dense.items()]
    sizes = [_nbytes(spec) for spec in weights]

    def arrays() -> Iterator[npt.NDArray[np.generic]]:
        pairs = ((spec[0], size) for spec, size in zip(weights, sizes, strict=True))
        for name in weighed(pairs, "writing the weights", sum(sizes), progress):
            dense = compiled.dense.get(name)
            yield _as_stored(name, layouts.get(name), compiled.load) if dense is None else dense

    started = time.perf_counter()
    kernels = _kernel_files(compiled, isas, progress)
    seconds = {NATIVE: time.perf_counter() - started} if kernels and isas else {}
    return Contents(
        plan=compiled.plan,
        graph_text=print_graph(compiled.graph),
        ledger=compiled.ledger,
        model=compiled.model,
        weights=weights,
        weight_arrays=arrays(),
        tokenizer_files=_tokenizer_files(source.folder),
        generation_defaults=source.generation_config,
        versions=versions(),
        factors=factors,
        extra_files={
            **{f"stages/{k}.ir": text.encode() for k, text in compiled.stages.items()},
            **_report_files(compiled),
            **kernels,
        },
        seconds=seconds,
    )


def _kernel_files(
    compiled: Compiled, isas: Sequence[Isa], progress: ProgressFn
) -> dict[str, bytes]:
    """Cubins, or shared objects for ``isas`` and what they were made from."""
    if compiled.cubins:
        return {f"{KERNELS}/{name}": data for name, data in compiled.cubins.items()}
    sources = compiled.kernels
    if not sources:
        return {}
    from graphopt.codegen.cpp.build import build

    files = {f"{KERNEL_SOURCES}/{name}.cpp": text.encode() for name, text in sources.items()}
    for isa in isas:
        progress(f"compiling {len(sources)} kernels for {isa.name}", 0, 0)
        files[f"{KERNELS}/{isa.name}.so"] = build(sources, isa)
    return files


def _report_files(compiled: Compiled) -> dict[str, bytes]:
    """The report, and what it needs to be written again."""
    from graphopt.ir.parser import parse_graph
    from graphopt.report.page import report_page
    from graphopt.report.source import PASSES, REPORT, ReportSource, passes_to_json

    source = ReportSource(
        compiled.plan,
        compiled.graph,
        parse_graph(compiled.stages["traced"]),
        compiled.ledger,
        compiled.model,
        compiled.reports,
        versions(),
        _kernel_texts(compiled),
    )
    return {PASSES: passes_to_json(compiled.reports), REPORT: report_page(source).encode()}


def _kernel_texts(compiled: Compiled) -> dict[str, str]:
    """The kernels for a GPU, each with what it takes there."""
    from graphopt.report.source import kernel_text

    found = {}
    for file, data in compiled.cubins.items():
        name, _, rest = file.partition("/")
        if rest.endswith(LAUNCH):
            kernel = LaunchKernel.from_json(json.loads(data))
            found[name] = kernel_text(kernel, compiled.kernels[name])
    return found


def _tokenizer_files(checkpoint: Path) -> dict[str, bytes]:
    from graphopt.frontend.tokenizer import export_tokenizer

    with TemporaryDirectory() as folder:
        export_tokenizer(checkpoint, Path(folder))
        return {file.name: file.read_bytes() for file in sorted(Path(folder).iterdir())}


def _stored(value: Value, layouts: Mapping[str, WeightLayout]) -> TensorSpec:
    """The tensor that a weight is stored as."""
    name, dtype, shape = spec_of(value)
    if name in layouts:
        dtype, shape = stored_as(layouts[name], dtype)
    return name, dtype, shape


def _as_stored(
    name: str, layout: WeightLayout | None, load: Callable[[str], npt.NDArray[np.generic]]
) -> npt.NDArray[np.generic]:
    """A weight as it is stored."""
    array = load(name)
    return array if layout is None else packed(array, layout, load)


def spec_of(value: Value) -> TensorSpec:
    """Name, type and shape of a weight."""
    shape = value.type.shape if isinstance(value.type, TensorType) else ()
    dtype = value.type.dtype if isinstance(value.type, TensorType) else DType.U8
    return value.name, dtype, tuple(int(str(dim)) for dim in shape)


def _nbytes(spec: TensorSpec) -> int:
    total = spec[1].nbytes
    for dim in spec[2]:
        total *= dim
    return total


def parameters(graph: Graph) -> int:
    """How many numbers a graph's weights hold."""
    return sum(_nbytes(spec_of(value)) // spec_of(value)[1].nbytes for value in graph.weights)

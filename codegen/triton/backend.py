"""The Triton backend: which regions have a kernel, and the kernels of a plan as cubins.

before:  a graph in regions
after:   for each region a kernel or the reason why there is none; for a plan, its kernels' files

Regions with state all have kernels, or none has: see ``codegen.made``. A variant that does not fit
a GPU gives way to the next one, and a kernel of which none is left costs its regions theirs. Where
a library was measured to be faster, nothing is compiled: PyTorch computes steps of those sizes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from graphopt.errors import CompileError
from graphopt.gpu_packing import GpuPacking
from graphopt.ir.graph import Graph
from graphopt.ir.shape import Dim
from graphopt.launch import LAUNCH, TEXT, Launch, LaunchKernel, LaunchVariant
from graphopt.ledger import Verdict, accept, refuse
from graphopt.plan import TRITON, Piece
from graphopt.progress import ProgressFn, silent
from graphopt.region import Region

from ..made import Made, attempt
from ..rows.parts import anchor_of
from .ahead import Outcome, Request, build_all
from .autotune import Choice, Tuned, has_library, key_of
from .buckets import Bucket, buckets_of, reachable
from .kernel import TritonKernel, Variant
from .layouts import misread, packings_of
from .loop import loop_kernels
from .worker import Built

# The module and the function in it that make the kernels of a family.
ROWS = ("rows", "rows_kernel")
MAKERS: Mapping[str, tuple[str, str]] = {
    "pointwise": ROWS,
    "row": ROWS,
    "gather": ROWS,
    "heads": ROWS,
    "view": ROWS,
    "opaque": ROWS,
    "linear": ("linear", "linear_kernel"),
    "attention": ("attention", "attention_kernel"),
    "experts": ("experts", "experts_kernel"),
    "matmul": ("matmul", "matmul_kernel"),
}
# Linear regions around another operator than ``linear``.
ANCHORS: Mapping[str, tuple[str, str]] = {
    "quantized_linear": ("quant_linear", "quant_linear_kernel"),
    "fp8_linear": ("quant_fp8", "fp8_linear_kernel"),
}
MODELS_PICK = "the model's pick"
Maker = Callable[..., TritonKernel | Verdict]


@dataclass(frozen=True, slots=True)
class _Compiled:
    """A kernel with what of it is launched, and the files that this takes."""

    kernel: LaunchKernel
    codes: Mapping[str, bytes]
    note: str


class TritonBackend:
    """Makes Triton kernels for the regions of one graph.

    Args:
        graph: what the regions compute.
        regions: all of them.
        block_size: slots in a block of state.
        arch: the GPU to choose tiles for, such as 90.
    """

    name = TRITON

    def __init__(
        self, graph: Graph, regions: Sequence[Region], block_size: int, arch: int = 90
    ) -> None:
        self._graph = graph
        self._block_size = block_size
        self._arch = arch
        self._packings: Mapping[str, GpuPacking] = {}
        # Products come first: how they read a weight decides how everything else does.
        made = {one: self._make(graph, one) for one in regions if one.family == "linear"}
        products = [one for one, found in made.items() if isinstance(found, TritonKernel)]
        self._packings = packings_of(graph, products)
        made |= {one: self._make(graph, one) for one in regions if one not in made}
        self._made = Made({one: self._agreed(one, made[one]) for one in regions})
        self._loop = loop_kernels(graph, block_size)
        self._compiled: dict[str, _Compiled] = {}

    def compile(
        self,
        arch: str,
        most: Mapping[str, int],
        tuned: Tuned | None = None,
        *,
        jobs: int | None = None,
        progress: ProgressFn = silent,
    ) -> None:
        """Compile every variant that a plan can call, and drop kernels that cannot run.

        Args:
            arch: such as ``sm_90``.
            most: how large the sizes of a step can be; one that is missing has no end.
            tuned: what was measured; None for nothing.
            jobs: compilers that run at once; by default one per CPU.
            progress: told how far the work is.

        Raises:
            MachineError: Triton is missing, or a compiler died.
        """
        number = int(arch.removeprefix("sm_"))
        kernels: dict[str, _Choosing] = {}
        for region in self._made.found:
            if self._made.claims(region).accepted:
                made = self._made.kernel(region)
                if made.name not in kernels:
                    kernels[made.name] = _Choosing(made, self._graph, region, most, tuned)
        for name, one in self._loop.items():
            if isinstance(one, TritonKernel):
                kernels[name] = _Choosing(one, self._graph, None, most, None)
        while wanted := [one for kernel in kernels.values() for one in kernel.wanted()]:
            outcomes = build_all(wanted, number, jobs=jobs, progress=progress)
            for request, outcome in zip(wanted, outcomes, strict=True):
                kernels[request.kernel.name].built[repr(request.variant)] = outcome
            for kernel in kernels.values():
                kernel.settle()
        refused = {name: one.refused for name, one in kernels.items() if one.refused is not None}
        self._compiled |= {
            name: one.compiled(arch) for name, one in kernels.items() if name not in refused
        }
        self._made = self._made.without(refused)
        self._loop |= {name: verdict for name, verdict in refused.items() if name in self._loop}

    @property
    def layouts(self) -> Mapping[str, GpuPacking]:
        """How weights that kernels read have to lie, by name; the others lie row after row."""
        claimed = [one for one in self._made.found if self._made.claims(one).accepted]
        read = {value.name for one in claimed for value in one.inputs if value.is_weight}
        return {name: packing for name, packing in self._packings.items() if name in read}

    def claims(self, graph: Graph, region: Region) -> Verdict:
        """Whether there is a kernel for ``region``, and if not, why."""
        verdict = self._made.claims(region)
        return accept(self._note(self._made.kernel(region).name)) if verdict.accepted else verdict

    @property
    def loop(self) -> Mapping[str, Verdict]:
        """Whether there is each of the kernels between a decoder's steps, by name."""
        return {
            name: one if isinstance(one, Verdict) else accept(self._note(name))
            for name, one in self._loop.items()
        }

    def emit(self, graph: Graph, region: Region) -> str:
        """The kernel's name; its files are part of what ``files`` gives."""
        return self._made.kernel(region).name

    def workspaces(self, kernels: Sequence[tuple[str, str]]) -> tuple[Dim, ...]:
        """Bytes in a step's slots that each of ``kernels`` needs: none.

        What a kernel's programs share has to be zero before the first run, and stays theirs: it
        lies apart from the slots, which steps take turns in.
        """
        return tuple(0 for _ in kernels)

    def scratch_bytes(self, pieces: Sequence[Piece]) -> int:
        """Private memory of threads: none."""
        return 0

    def kernel(self, region: Region) -> TritonKernel | Verdict:
        """The kernel that was made for a region, or why there is none."""
        return self._made.found[region]

    def launch(self, name: str) -> LaunchKernel:
        """What is launched of a compiled kernel.

        Raises:
            CompileError: no kernel of that name was compiled.
        """
        if name not in self._compiled:
            raise CompileError("a kernel was not compiled", where=name)
        return self._compiled[name].kernel

    def sources(self, pieces: Sequence[Piece]) -> dict[str, str]:
        """The text of each kernel of ``pieces`` and of those between steps, by name."""
        loop = {name: one for name, one in self._loop.items() if isinstance(one, TritonKernel)}
        kernels = {**loop, **self._made.kernels()}
        return {name: kernels[name].text for name in self._used(pieces)}

    def files(self, pieces: Sequence[Piece]) -> dict[str, bytes]:
        """The files of those kernels, by their place among all kernels'."""
        files: dict[str, bytes] = {}
        for name, text in self.sources(pieces).items():
            files[f"{name}/{TEXT}"] = text.encode()
            if (compiled := self._compiled.get(name)) is not None:
                place = f"{name}/{compiled.kernel.arch}"
                files[f"{place}/{LAUNCH}"] = _json(compiled.kernel.to_json())
                files |= {f"{place}/{file}": code for file, code in compiled.codes.items()}
        return files

    def _used(self, pieces: Sequence[Piece]) -> list[str]:
        steps = [step for piece in pieces for step in piece.steps if step.backend == self.name]
        between = [name for name, verdict in self.loop.items() if verdict.accepted]
        return list(dict.fromkeys([*(step.kernel for step in steps), *between]))

    def _note(self, name: str) -> str:
        compiled = self._compiled.get(name)
        return compiled.note if compiled else ""

    def _make(self, graph: Graph, region: Region) -> TritonKernel | Verdict:
        def make() -> TritonKernel | Verdict:
            maker = _maker(graph, region)
            if maker is None:
                ops = ", ".join(dict.fromkeys(graph.nodes[place].op for place in region.nodes))
                return refuse(f"no template yet computes {ops}")
            if region.family == "attention":
                return maker(graph, region, self._block_size, arch=self._arch)
            if region.family == "linear":
                return maker(graph, region, arch=self._arch)
            if MAKERS[region.family] == ROWS:
                return maker(graph, region, self._packings)
            return maker(graph, region)

        return attempt(make)

    def _agreed(self, region: Region, made: TritonKernel | Verdict) -> TritonKernel | Verdict:
        """What was made of a region, unless it reads a weight otherwise than it lies."""
        if isinstance(made, Verdict) or MAKERS[region.family] == ROWS:
            return made
        return misread(self._graph, region, self._packings) or made


class _Choosing:
    """A kernel on its way: the variants that are wanted, and what came of them."""

    def __init__(
        self,
        kernel: TritonKernel,
        graph: Graph,
        region: Region | None,
        most: Mapping[str, int],
        tuned: Tuned | None,
    ) -> None:
        self.built: dict[str, Outcome] = {}
        self.refused: Verdict | None = None
        self._kernel = kernel
        self._most = most
        self._tuned = tuned
        self._dropped: list[str] = []
        self._buckets: list[Bucket] = []
        self._measured: dict[str, tuple[Choice, Variant]] = {}
        self._libraries: set[str] = set()  # names of the buckets that they compute
        for bucket in buckets_of(kernel.variants):
            choice = tuned.find(key_of(kernel, graph, region, bucket)) if tuned and region else None
            if choice and (measured := choice.of(kernel, bucket)):
                self._measured[bucket.name] = choice, measured
                if choice.is_library and region and has_library(region):
                    self._libraries.add(bucket.name)
                bucket = Bucket(bucket.below, (measured, *bucket.candidates))
            self._buckets.append(bucket)

    def wanted(self) -> list[Request]:
        """What has to be compiled next."""
        if self.refused is not None:
            return []
        chosen = [one for bucket in self._launched() for one in bucket.candidates]
        fresh = {repr(one): one for one in chosen if repr(one) not in self.built}
        return [Request(self._kernel, one) for one in fresh.values()]

    def settle(self) -> None:
        """Give up buckets of which nothing runs; larger bounds take their sizes."""
        for bucket in self._launched():
            if self.refused is None and self._pick(bucket) is None:
                why = self._why_not(bucket)
                if bucket is self._buckets[-1]:
                    self.refused = refuse(f"its kernel does not run on this GPU: {why}")
                else:
                    self._dropped.append(f"none for {bucket.name}: {why}")
                    self._buckets.remove(bucket)

    def compiled(self, arch: str) -> _Compiled:
        """What is launched, once everything is settled."""
        files: dict[bytes, str] = {}
        variants: list[LaunchVariant] = []
        said: dict[str, list[str]] = {}
        for bucket in self._reached():
            choice, measured = self._measured.get(bucket.name, (None, None))
            by_measuring = choice.origin(self._tuned.gpu) if choice and self._tuned else ""
            if bucket.name in self._libraries:
                variants.append(LaunchVariant(dict(bucket.below), (), by_measuring, library=True))
                said.setdefault(by_measuring, []).append(bucket.name)
                continue
            picked = self._pick(bucket)
            if picked is None:
                raise CompileError("a kernel is not settled", where=self._kernel.name)
            variant, built = picked
            origin = by_measuring if variant == measured else MODELS_PICK
            launches = []
            for launch, one in zip(variant.launches, built, strict=True):
                file = files.setdefault(one.code, f"{len(files)}.cubin")
                launches.append(_launch(launch, one, file))
            variants.append(LaunchVariant(dict(bucket.below), tuple(launches), origin))
            flaws = [flaw for one in built for flaw in one.problems]
            said.setdefault(", ".join([origin, *flaws]), []).append(bucket.name)
        k = self._kernel
        kernel = LaunchKernel(k.name, arch, k.pointers, k.sizes, k.workspace, tuple(variants))
        notes = [f"{what} for {', '.join(names)}" for what, names in said.items()]
        note = f"{arch}: {'; '.join([*notes, *self._dropped])}"
        return _Compiled(kernel, {file: code for code, file in files.items()}, note)

    def _reached(self) -> tuple[Bucket, ...]:
        return reachable(self._buckets, self._most)

    def _launched(self) -> tuple[Bucket, ...]:
        return tuple(one for one in self._reached() if one.name not in self._libraries)

    def _pick(self, bucket: Bucket) -> tuple[Variant, tuple[Built, ...]] | None:
        """The first candidate without problems, else the first that can be launched at all."""
        running: list[tuple[Variant, tuple[Built, ...]]] = []
        for one in bucket.candidates:
            outcome = self.built.get(repr(one))
            if isinstance(outcome, tuple) and all(built.programs for built in outcome):
                running.append((one, outcome))
        clean = (pair for pair in running if not any(built.problems for built in pair[1]))
        return next(clean, running[0] if running else None)

    def _why_not(self, bucket: Bucket) -> str:
        outcome = self.built.get(repr(bucket.candidates[-1]))
        if isinstance(outcome, Verdict):
            return outcome.reason
        return (
            "; ".join(flaw for one in outcome or () for flaw in one.problems) or "it is too large"
        )


def compiled_kernel(
    kernel: TritonKernel, arch: str, variant: Variant, built: Sequence[Built]
) -> tuple[LaunchKernel, dict[str, bytes]]:
    """A kernel that is launched as one variant for all sizes, and its cubins by file."""
    codes = {f"{place}.cubin": one.code for place, one in enumerate(built)}
    launches = tuple(
        _launch(launch, one, file)
        for launch, one, file in zip(variant.launches, built, codes, strict=True)
    )
    variants = (LaunchVariant({}, launches),)
    found = LaunchKernel(
        kernel.name, arch, kernel.pointers, kernel.sizes, kernel.workspace, variants
    )
    return found, codes


def _launch(variant: Variant, built: Built, file: str) -> Launch:
    x, y, z = (*variant.grid, 1, 1)[:3]
    return Launch(
        file,
        built.symbol,
        dict(variant.constants),
        (x, y, z),
        variant.num_warps,
        variant.num_stages,
        built.threads,
        built.shared_bytes,
        built.global_bytes,
        built.global_alignment,
        built.registers,
        built.spill_bytes,
        built.programs,
    )


def _maker(graph: Graph, region: Region) -> Maker | None:
    """What makes a region's kernel; None while nobody does."""
    place = MAKERS.get(region.family)
    if region.family == "linear":
        place = ANCHORS.get(anchor_of(graph, region).op, place)
    if place is None:
        return None
    module, function = place
    try:
        found: Any = import_module(f"{__package__}.{module}")
    except ModuleNotFoundError as error:
        if error.name != f"{__package__}.{module}":
            raise
        return None
    made: Maker | None = getattr(found, function, None)
    return made


def _json(data: object) -> bytes:
    return (json.dumps(data, indent=1) + "\n").encode()

"""The Triton backend: which regions have a kernel, and the kernels of a plan as cubins.

before:  a graph in regions
after:   for each region a kernel or the reason why there is none; for a plan, its kernels' files

Regions with state all have kernels, or none has: see ``codegen.made``. A variant that does not fit
a GPU gives way to the next one, and a kernel of which none is left costs its regions theirs. Where
a library was measured to be faster, nothing is compiled: PyTorch computes steps of those sizes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from graphopt.errors import CompileError
from graphopt.gpu_packing import GpuPacking
from graphopt.ir.graph import Graph
from graphopt.ir.shape import Dim
from graphopt.launch import LAUNCH, TEXT, LaunchKernel
from graphopt.ledger import Verdict, accept
from graphopt.plan import TRITON, Piece
from graphopt.progress import ProgressFn, silent
from graphopt.region import Region

from ..made import Made, attempt
from .ahead import build_all
from .autotune import Tuned
from .choosing import Choosing, Compiled
from .dependent import FIRST_ARCH
from .kernel import TritonKernel
from .layouts import misread, packings_of
from .loop import loop_kernels
from .makers import is_told_packings, kernel_of


class TritonBackend:
    """Makes Triton kernels for the regions of one graph.

    Args:
        graph: what the regions compute.
        regions: all of them.
        block_size: slots in a block of state.
        arch: the GPU to choose tiles for, such as 90.
        deterministic: whether each kernel has one variant for steps of all sizes, and no library
            computes any: a row's result then does not depend on what else is in its step.
        dependent: whether kernels begin while the one before them ends, if the GPU can do that.
        draws: whether tokens are drawn from the output.
    """

    name = TRITON

    def __init__(
        self,
        graph: Graph,
        regions: Sequence[Region],
        block_size: int,
        arch: int = 90,
        *,
        deterministic: bool = False,
        dependent: bool = False,
        draws: bool = True,
    ) -> None:
        self._graph = graph
        self._block_size = block_size
        self._arch = arch
        self._deterministic = deterministic
        self._dependent = dependent
        self._packings: Mapping[str, GpuPacking] = {}
        # Products come first: how they read a weight decides how everything else does.
        made = {one: self._make(graph, one) for one in regions if one.family == "linear"}
        products = [one for one, found in made.items() if isinstance(found, TritonKernel)]
        self._packings = packings_of(graph, products)
        made |= {one: self._make(graph, one) for one in regions if one not in made}
        self._made = Made({one: self._agreed(one, made[one]) for one in regions})
        early = dependent and arch >= FIRST_ARCH
        self._loop = loop_kernels(graph, block_size, dependent=early) if draws else {}
        self._compiled: dict[str, Compiled] = {}

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
        if self._deterministic:
            tuned = None  # what is fastest for many rows was not asked for one
        kernels: dict[str, Choosing] = {}
        for region in self._made.found:
            if self._made.claims(region).accepted:
                made = self._made.kernel(region)
                if made.name not in kernels:
                    kernels[made.name] = Choosing(made, self._graph, region, most, tuned)
        for name, one in self._loop.items():
            if isinstance(one, TritonKernel):
                kernels[name] = Choosing(one, self._graph, None, most, None)
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
        return attempt(
            lambda: kernel_of(
                graph,
                region,
                arch=self._arch,
                block_size=self._block_size,
                packings=self._packings,
                deterministic=self._deterministic,
                dependent=self._dependent,
            )
        )

    def _agreed(self, region: Region, made: TritonKernel | Verdict) -> TritonKernel | Verdict:
        """What was made of a region, unless it reads a weight otherwise than it lies."""
        if isinstance(made, Verdict) or is_told_packings(region):
            return made
        return misread(self._graph, region, self._packings) or made


def _json(data: object) -> bytes:
    return (json.dumps(data, indent=1) + "\n").encode()

"""The C++ backend: which regions have a kernel, and the kernels of a plan as sources.

before:  a graph in regions
after:   for each region a kernel or the reason why there is none; for a plan, its source files

Regions with state all have kernels, or none has: see ``codegen.made``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph
from graphopt.ir.shape import Dim
from graphopt.ir.types import TensorType
from graphopt.ledger import Verdict, refuse
from graphopt.packing import Layout
from graphopt.plan import CPP, Piece
from graphopt.region import Region

from ..made import Made, attempt
from ..render import render
from .attention import attention_kernel
from .experts import experts_kernel
from .expression import CTYPES
from .kernel import Kernel
from .layouts import layouts_of
from .linear import linear_kernel
from .matmul import matmul_kernel
from .piece import piece_source, scratch_bytes
from .rows import rows_kernel

# Types of logits that are sampled in C++.
SAMPLED = (DType.F32, DType.BF16, DType.F16)
# Makes the kernel of a region, or says why it cannot.
Maker = Callable[[Graph, Region, Mapping[str, Layout]], Kernel | Verdict]
MAKERS: Mapping[str, Maker] = {
    "pointwise": rows_kernel,
    "row": rows_kernel,
    "gather": rows_kernel,
    "heads": rows_kernel,
    "view": rows_kernel,
    "linear": linear_kernel,
    "attention": attention_kernel,
    "experts": experts_kernel,
    "matmul": matmul_kernel,
    "opaque": rows_kernel,
}


class CppBackend:
    """Makes C++ kernels for the regions of one graph.

    Args:
        graph: what the regions compute.
        regions: all of them.

    Attributes:
        layouts: how weights have to lie in memory, by name; the others lie row after row.
    """

    name = CPP

    def __init__(self, graph: Graph, regions: Sequence[Region]) -> None:
        self._logits = graph.outputs[0].type
        self.layouts = layouts_of(graph, regions)
        self._made = Made({region: self._make(graph, region) for region in regions})
        self._kernels: dict[str, Kernel] = {}

    def claims(self, graph: Graph, region: Region) -> Verdict:
        """Whether there is a kernel for ``region``, and if not, why."""
        return self._made.claims(region)

    def emit(self, graph: Graph, region: Region) -> str:
        """The kernel's name; its text is part of what ``sources`` gives."""
        made = self._made.kernel(region)
        return self._kernels.setdefault(made.name, made).name

    def workspaces(self, kernels: Sequence[tuple[str, str]]) -> tuple[Dim, ...]:
        """Bytes that each of ``kernels``, pairs of backend and name, shares while it runs."""
        return tuple(
            self._kernels[kernel].workspace if backend == self.name else 0
            for backend, kernel in kernels
        )

    def scratch_bytes(self, pieces: Sequence[Piece]) -> int:
        """Private memory that each thread needs for the pieces that are this backend's."""
        return scratch_bytes(self._own(pieces), self._kernels)

    def sources(self, pieces: Sequence[Piece]) -> dict[str, str]:
        """Source files of ``pieces`` by name: each kernel, each body, and the sampler."""
        own = self._own(pieces)
        if not own:
            return {}
        used = dict.fromkeys(step.kernel for piece in own for step in piece.steps)
        files = {name: self._kernels[name].source for name in used}
        for piece in own:
            files.setdefault(f"piece_{piece.body}", piece_source(piece))
        if isinstance(self._logits, TensorType) and self._logits.dtype in SAMPLED:
            dtype = self._logits.dtype
            files["sampler"] = render("cpp/sampler.jinja", name=dtype, type=CTYPES[dtype])
        return files

    def _own(self, pieces: Sequence[Piece]) -> list[Piece]:
        return [piece for piece in pieces if piece.steps[0].backend == self.name]

    def _make(self, graph: Graph, region: Region) -> Kernel | Verdict:
        maker = MAKERS.get(region.family)
        if maker is None:
            ops = dict.fromkeys(graph.nodes[place].op for place in region.nodes)
            return refuse(f"no template computes {', '.join(ops)}")
        return attempt(lambda: maker(graph, region, self.layouts))

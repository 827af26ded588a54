"""The C++ backend: which regions have a kernel, and the kernels of a plan as sources.

before:  a graph in regions
after:   for each region a kernel or the reason why there is none; for a plan, its source files

State has one layout in memory, which only these kernels know, so either all regions that read or
write it have kernels or none has.

A defect of a maker costs a region its kernel, not the user the artifact: the ledger says so. Where
``GRAPHOPT_STRICT`` is set, as in our tests, it is raised.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence

from graphopt.errors import CompileError
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph
from graphopt.ir.shape import Dim
from graphopt.ir.types import StateType, TensorType
from graphopt.ledger import Verdict, accept, refuse
from graphopt.packing import Layout
from graphopt.plan import CPP, Piece
from graphopt.region import Region

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

STRICT = "GRAPHOPT_STRICT"
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
        self._made = {region: self._make(graph, region) for region in regions}
        self._kernels: dict[str, Kernel] = {}
        self._stateless = self._why_stateless()

    def claims(self, graph: Graph, region: Region) -> Verdict:
        """Whether there is a kernel for ``region``, and if not, why."""
        made = self._made[region]
        if isinstance(made, Verdict):
            return made
        if self._stateless is not None and _has_state(region):
            return self._stateless
        return accept()

    def emit(self, graph: Graph, region: Region) -> str:
        """The kernel's name; its text is part of what ``sources`` gives."""
        made = self._made[region]
        if isinstance(made, Verdict):
            raise CompileError("a region has no kernel", where=region.scope, got=made.reason)
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
        try:
            return maker(graph, region, self.layouts)
        except Exception as error:
            if os.environ.get(STRICT):
                raise
            return refuse(f"the code generator failed: {type(error).__name__}: {error}")

    def _why_stateless(self) -> Verdict | None:
        """Why no region with state can have a kernel, if one of them has none."""
        for region, made in self._made.items():
            if _has_state(region) and isinstance(made, Verdict):
                return refuse(
                    f"{region.name} of {region.scope} has no kernel, and it reads or writes the "
                    f"same state: {made.reason}"
                )
        return None


def _has_state(region: Region) -> bool:
    return any(isinstance(value.type, StateType) for value in region.inputs)

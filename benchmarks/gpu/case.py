"""What the suite checks and times: a kernel, operands for it, and what it has to give.

A case says how its kernel is made and how its operands are made on a device; nothing of it is made
until it is asked for. ``Work`` is a case on a device: the pointers that a launch takes, and results
that are poisoned before it and held against float64 after it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from graphopt.codegen.triton.kernel import TritonKernel
from graphopt.ir.graph import Graph
from graphopt.ledger import Verdict
from graphopt.region import Region

# Elements after each result that must stay as they are.
GUARD = 64
# What results hold before a kernel writes them: floats NaN, other types this.
POISON = 77
# Relative errors that a result may have, by its element type.
TOLERANCE: Mapping[torch.dtype, float] = {
    torch.float64: 1e-5,
    torch.float32: 1e-5,
    torch.bfloat16: 1e-2,
    torch.float16: 2e-3,
}

# What a kernel is made of.
Source = tuple[Graph, Region]
Tensors = Mapping[str, Tensor]
# What a case computes, as a function of its operands by name, in PyTorch.
Eager = Callable[[Tensors], Tensor]
# From operands to something that can be called again and again, and gives the first result.
Peer = Callable[["Work"], Callable[[], Tensor]]


class AbsentError(Exception):
    """There is no library for a peer, or nothing that launches."""


@dataclass(slots=True)
class Result:
    """Memory that a kernel writes.

    Attributes:
        name: of the value.
        tensor: the memory as the value's shape.
        whole: the same memory and the elements after it; None for state, which has none.
        live: how many rows are defined; the rest may hold anything.
        before: what the memory holds before a run; None to poison it.
    """

    name: str
    tensor: Tensor
    whole: Tensor | None
    live: int | None = None
    before: Tensor | None = None

    @classmethod
    def poisoned(
        cls, name: str, shape: Sequence[int], dtype: torch.dtype, device: torch.device
    ) -> Result:
        """Fresh memory for a result."""
        count = 1
        for size in shape:
            count *= size
        whole = torch.empty(count + GUARD, dtype=dtype, device=device)
        found = cls(name, whole[:count].view(*shape), whole)
        found.reset()
        return found

    def reset(self) -> None:
        """Poisons it, or puts back what was there."""
        if self.before is not None:
            self.tensor.copy_(self.before)
        elif self.whole is not None:
            _poison(self.whole)

    def is_guard_intact(self) -> bool:
        """Whether nothing was written past its end."""
        if self.whole is None:
            return True
        guard = self.whole[self.tensor.numel() :]
        fresh = guard.clone()
        _poison(fresh)
        return torch.equal(guard.view(torch.uint8), fresh.view(torch.uint8))


def _poison(tensor: Tensor) -> None:
    if tensor.dtype.is_floating_point:
        tensor.fill_(float("nan"))
    elif tensor.dtype is torch.bool:
        tensor.fill_(False)
    else:
        tensor.fill_(POISON)


@dataclass(slots=True)
class Work:
    """A case on a device.

    Attributes:
        tensors: the operands by name, as the graph has them; what peers read.
        pointers: what the kernel takes, in order, without its workspace.
        results: what it writes.
        expected: the results in float64, in the same order; integers as they are.
        sizes: of the step.
        dense: queries, keys and values [S, heads, n, D] of attention, for peers without pages.
    """

    tensors: dict[str, Tensor]
    pointers: list[Tensor]
    results: list[Result]
    expected: Callable[[], list[Tensor]]
    sizes: Mapping[str, int]
    dense: Callable[[], tuple[Tensor, Tensor, Tensor]] | None = None

    def reset(self) -> None:
        """As before any run."""
        for result in self.results:
            result.reset()


@dataclass(frozen=True, slots=True)
class Case:
    """One row of the suite.

    Attributes:
        name: as in the table.
        family: of kernels, such as ``linear``.
        sizes: of the step.
        kernel: makes the kernel for an architecture such as 90, or says why not.
        work: its operands on a device, from a seed.
        flops: of one run.
        nbytes: that one run has to move.
        eager: the same in PyTorch; timed as it is and compiled.
        peers: other ways to compute the same, by name.
        tolerance: relative error of floats, if not that of the type.
        source: what the kernel is made of; None where it is no region's.
    """

    name: str
    family: str
    sizes: Mapping[str, int]
    kernel: Callable[[int], TritonKernel | Verdict]
    work: Callable[[torch.device, int], Work]
    flops: float = 0.0
    nbytes: float = 0.0
    eager: Eager | None = None
    peers: Mapping[str, Peer] = field(default_factory=dict)
    tolerance: float | None = None
    source: Source | None = None


def relative_error(found: Tensor, expected: Tensor) -> float:
    """The norm of the difference over the norm of what is expected; infinite if one is NaN."""
    wide = expected.double()
    norm = float(wide.norm())
    error = float((found.double() - wide).norm()) / (norm or 1.0)
    return error if error == error else float("inf")

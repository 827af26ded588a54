"""What ``graphopt compile`` ships of a kernel for a step of some sizes: which variant, its cubins.

before:  a kernel, the sizes of a step, an architecture
after:   the variant that is launched then, chosen and compiled by the code that makes artifacts

Of alternatives the first without problems is launched, and a measurement goes before both. Where
one says that PyTorch is faster, an artifact has no kernel for such steps: ours is timed all the
same, beside PyTorch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from graphopt.codegen.triton.ahead import Outcome
from graphopt.codegen.triton.autotune import tuned_for
from graphopt.codegen.triton.choosing import Choosing, compiled_kernel
from graphopt.codegen.triton.compile import compile_variant, options_of
from graphopt.codegen.triton.kernel import TritonKernel, Variant
from graphopt.codegen.triton.worker import Built, build
from graphopt.errors import CompileError
from graphopt.ir.graph import Graph
from graphopt.launch import LaunchKernel
from graphopt.ledger import refuse

from .case import Source

# Of a kernel that no region is known of.
_NONE = Graph("none", (), (), (), ())


class Shipping:
    """Chooses and compiles in this process, by what the processes of ``graphopt compile`` run.

    Args:
        arch: such as 90.
    """

    def __init__(self, arch: int) -> None:
        self._arch = arch
        # What Triton keeps is found again, but reading it takes a while.
        self._built: dict[tuple[str, str], Built] = {}

    def variant(
        self, kernel: TritonKernel, sizes: Mapping[str, int], source: Source | None = None
    ) -> Variant:
        """The variant that a step of these sizes launches.

        Args:
            kernel: whose variants for these sizes are compiled as far as it takes.
            sizes: of the step.
            source: what it was made of, by which measurements are found; None for none.

        Raises:
            CompileError: none of its variants for these sizes can be launched.
            MachineError: Triton is missing.
        """
        near = replace(kernel, variants=tuple(one for one in kernel.variants if one.fits(sizes)))
        graph, region = source or (_NONE, None)
        choosing = Choosing(near, graph, region, sizes, tuned_for(self._arch))
        while wanted := choosing.wanted():
            for request in wanted:
                choosing.built[repr(request.variant)] = self._outcome(kernel, request.variant)
            choosing.settle()
        if choosing.refused is not None:
            raise CompileError(choosing.refused.reason, where=kernel.name, got=dict(sizes))
        return choosing.picked(sizes) or near.variants[0]

    def cubins(
        self, kernel: TritonKernel, variant: Variant
    ) -> tuple[LaunchKernel, dict[str, bytes]]:
        """The kernel as this variant alone, and its cubins by file.

        Raises:
            CompileError: it does not compile.
            MachineError: Triton is missing.
        """
        built = [self._build(kernel, launch) for launch in variant.launches]
        return compiled_kernel(kernel, f"sm_{self._arch}", variant, built)

    def options(self, kernel: TritonKernel, launch: Variant) -> dict[str, Any]:
        """The options that a launch's cubin is compiled with, as Triton's own launcher takes them.

        Raises:
            CompileError: it does not compile.
            MachineError: Triton is missing.
        """
        bound = compile_variant(kernel, launch, self._arch).bound
        return options_of(launch) | ({} if bound is None else {"maxnreg": bound})

    def _outcome(self, kernel: TritonKernel, variant: Variant) -> Outcome:
        try:
            return tuple(self._build(kernel, launch) for launch in variant.launches)
        except CompileError as error:
            return refuse(f"{error.what}: {error.got}")

    def _build(self, kernel: TritonKernel, launch: Variant) -> Built:
        key = (kernel.name, repr(replace(launch, below={})))
        if key not in self._built:
            self._built[key] = build(kernel, launch, self._arch)
        return self._built[key]

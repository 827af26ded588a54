"""Ways to run a variant of a kernel: Triton's own launcher, cubins, or the interpreter.

Each says which variant a step of some sizes runs, prepares a variant once, and gives something that
can be called. Cubins are those of ``graphopt compile``; see ``shipping``. Triton's launcher shows
whether a kernel is right before anything else works; sizes are kept from being specialised, and it
is told the options that the cubin was compiled with, so what it compiles is the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from graphopt.codegen.triton import interpreter
from graphopt.codegen.triton.kernel import TritonKernel, Variant
from graphopt.codegen.triton.load import load_module
from graphopt.errors import MachineError
from graphopt.ir.reference import torch_dtype
from graphopt.ir.shape import evaluate
from graphopt.runtime.executors.gpu.cubins import KernelSet, Memory, TorchMemory, open_driver

from .case import AbsentError, Source
from .shipping import Shipping

Runnable = Callable[[], None]


class Launcher(Protocol):
    """Runs variants."""

    @property
    def name(self) -> str:
        """As in tables."""

    def picked(
        self, kernel: TritonKernel, sizes: Mapping[str, int], source: Source | None
    ) -> Variant:
        """What a step of these sizes runs; ``source``: what the kernel was made of, if known."""

    def prepare(
        self,
        kernel: TritonKernel,
        variant: Variant,
        pointers: Sequence[Tensor],
        sizes: Mapping[str, int],
    ) -> Runnable:
        """What launches the variant on these pointers, its workspace among them."""


def with_workspace(
    kernel: TritonKernel, pointers: Sequence[Tensor], sizes: Mapping[str, int]
) -> list[Tensor]:
    """All pointers that a kernel takes: a workspace of zeros comes last if it has one.

    Memory whose type is not the kernel's, such as packed weights, is seen as what the kernel takes.
    """
    typed = [
        pointer if dtype is None else seen_as(pointer, torch_dtype(dtype))
        for pointer, dtype in zip(pointers, kernel.pointers, strict=False)
    ]
    if None not in kernel.pointers:
        return typed
    count = max(16, evaluate(kernel.workspace, sizes))
    return [*typed, torch.zeros(count, dtype=torch.uint8, device=pointers[0].device)]


def seen_as(memory: Tensor, dtype: torch.dtype) -> Tensor:
    """The same memory with elements of another type."""
    return memory if memory.dtype == dtype else memory.view(dtype)


class Interpreted:
    """Runs programs one after the other on a CPU."""

    name = "interpreter"

    def picked(
        self, kernel: TritonKernel, sizes: Mapping[str, int], source: Source | None
    ) -> Variant:
        """The first that fits: nothing is compiled, so nothing is wrong with any."""
        return kernel.variant(sizes)

    def prepare(
        self,
        kernel: TritonKernel,
        variant: Variant,
        pointers: Sequence[Tensor],
        sizes: Mapping[str, int],
    ) -> Runnable:
        """See :class:`Launcher`."""
        return lambda: interpreter.run(kernel, variant, pointers, sizes)


class Jit:
    """Triton's own launcher, on PyTorch's current device and stream.

    Args:
        arch: of the device, such as 90.
    """

    name = "jit"

    def __init__(self, arch: int) -> None:
        self._shipping = Shipping(arch)

    def picked(
        self, kernel: TritonKernel, sizes: Mapping[str, int], source: Source | None
    ) -> Variant:
        """See :class:`Launcher`."""
        return self._shipping.variant(kernel, sizes, source)

    def prepare(
        self,
        kernel: TritonKernel,
        variant: Variant,
        pointers: Sequence[Tensor],
        sizes: Mapping[str, int],
    ) -> Runnable:
        """See :class:`Launcher`."""
        _give_memory()
        counts = [sizes[name] for name in kernel.sizes]
        calls: list[Runnable] = []
        for launch in variant.launches:
            function = plain_function(kernel, launch)[launch.programs(sizes)]
            given = {**launch.constants, **self._shipping.options(kernel, launch)}
            calls.append(_call(function, [*pointers, *counts], given))
        return _one_after_the_other(calls)


class Cubins:
    """What the compiler makes ahead of time, launched as a serving process does it.

    Args:
        arch: of the device, such as 90.
        driver: of the device; that of cuda-bindings if None.
        memory: makes what gives workspaces, which live as long as what was prepared.

    Raises:
        AbsentError: cuda-bindings are not installed.
    """

    name = "cubin"

    def __init__(
        self, arch: int, driver: Any = None, memory: Callable[[], Memory] = TorchMemory
    ) -> None:
        self._shipping = Shipping(arch)
        try:
            self._driver = open_driver() if driver is None else driver
        except MachineError as error:
            raise AbsentError(f"{error.what}: {error.got}") from error
        self._memory = memory

    def picked(
        self, kernel: TritonKernel, sizes: Mapping[str, int], source: Source | None
    ) -> Variant:
        """See :class:`Launcher`."""
        return self._shipping.variant(kernel, sizes, source)

    def prepare(
        self,
        kernel: TritonKernel,
        variant: Variant,
        pointers: Sequence[Tensor],
        sizes: Mapping[str, int],
    ) -> Runnable:
        """See :class:`Launcher`."""
        alone, codes = self._shipping.cubins(kernel, variant)
        loaded = KernelSet(
            {kernel.name: alone}, lambda name, file: codes[file], self._driver, self._memory()
        )
        loaded.reserve(sizes)
        plain = pointers[:-1] if None in kernel.pointers else pointers  # it has its own workspace
        addresses = [pointer.data_ptr() for pointer in plain]
        return lambda: loaded.launch(kernel.name, addresses, sizes)


def plain_function(kernel: TritonKernel, launch: Variant) -> Any:
    """The function of a launch; nothing is assumed of the sizes that it takes."""
    import triton

    function = getattr(load_module(kernel.name, kernel.text), launch.function)
    plain = [name for name in function.arg_names if name not in launch.constants]
    return triton.jit(function.fn, do_not_specialize=plain[len(kernel.pointers) :])


def _give_memory() -> None:
    """Memory for the descriptors that kernels make, which Triton asks its caller for."""
    import triton

    def allocate(size: int, alignment: int, stream: int | None) -> Tensor:
        return torch.empty(size, dtype=torch.int8, device="cuda")

    triton.set_allocator(allocate)


def _call(function: Any, given: Sequence[Any], named: Mapping[str, Any]) -> Runnable:
    def run() -> None:
        function(*given, **named)

    return run


def _one_after_the_other(calls: Sequence[Runnable]) -> Runnable:
    if len(calls) == 1:
        return calls[0]

    def run() -> None:
        for call in calls:
            call()

    return run

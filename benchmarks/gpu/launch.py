"""Ways to run a variant of a kernel: Triton's own launcher, cubins, or the interpreter.

Each prepares a variant once and gives something that can be called with pointers. Triton's launcher
shows whether a kernel is right before anything else works; sizes are kept from being specialised,
so what it compiles is what the cubin holds.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from graphopt.codegen.triton import interpreter
from graphopt.codegen.triton.kernel import TritonKernel, Variant
from graphopt.codegen.triton.load import load_module
from graphopt.ir.reference import torch_dtype
from graphopt.ir.shape import evaluate

from .case import AbsentError

Runnable = Callable[[], None]


class Launcher(Protocol):
    """Runs variants."""

    @property
    def name(self) -> str:
        """As in tables."""

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
    """Triton's own launcher, on PyTorch's current device and stream."""

    name = "jit"

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
            options = {"num_warps": launch.num_warps, "num_stages": launch.num_stages}
            given = {**launch.constants, **options}
            calls.append(_call(function, [*pointers, *counts], given))
        return _one_after_the_other(calls)


class Cubins:
    """What the compiler makes ahead of time, launched as a serving process does it."""

    name = "cubin"

    def __init__(self, arch: int) -> None:
        try:
            self._runtime = importlib.import_module("graphopt.runtime.executors.cubins")
        except ModuleNotFoundError as error:
            raise AbsentError("no module graphopt.runtime.executors.cubins") from error
        self._arch = arch

    def prepare(
        self,
        kernel: TritonKernel,
        variant: Variant,
        pointers: Sequence[Tensor],
        sizes: Mapping[str, int],
    ) -> Runnable:
        """See :class:`Launcher`."""
        raise AbsentError("cubins are not launched yet")


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

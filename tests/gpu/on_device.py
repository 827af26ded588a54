"""Runs on a GPU what the tests of Triton's kernels give to the interpreter.

    python -m pytest -p tests.gpu.on_device -m interpreted tests/codegen/triton

As a plugin it takes the interpreter's place before any test is collected: operands move to the
device, the variant is launched there, and memory moves back, whoever shares it with whom. So every
ragged shape and every poisoned result of those tests is tried on real hardware too. The variable
``GRAPHOPT_LAUNCHER`` says how kernels are launched: ``cubin`` as a serving process does it (the
default), or ``jit``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from graphopt.codegen.triton import interpreter

if TYPE_CHECKING:
    import torch

    from benchmarks.gpu.launch import Launcher
    from graphopt.codegen.triton.kernel import TritonKernel, Variant

LAUNCHER = "GRAPHOPT_LAUNCHER"
_ROUND = 16  # storages are moved in whole elements of any type


class Moved:
    """Tensors on another device that share memory as they did where they come from."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._storages: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def __call__(self, tensor: torch.Tensor) -> torch.Tensor:
        """The tensor over there."""
        import torch

        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._storages:
            bits = torch.empty(0, dtype=torch.uint8).set_(storage)
            room = -(-len(bits) // _ROUND) * _ROUND
            there = torch.zeros(room, dtype=torch.uint8, device=self._device)
            there[: len(bits)].copy_(bits)
            self._storages[storage.data_ptr()] = (bits, there)
        _, there = self._storages[storage.data_ptr()]
        typed = there.view(tensor.dtype)
        return typed.as_strided(tensor.size(), tensor.stride(), tensor.storage_offset())

    def bring_back(self) -> None:
        """All memory as it is over there now."""
        for bits, there in self._storages.values():
            bits.copy_(there[: len(bits)])


def runner(launcher: Callable[[], Launcher], device: Callable[[], torch.device]) -> Any:
    """What takes the place of the interpreter's ``run``."""
    made: list[Launcher] = []

    def run(
        kernel: TritonKernel,
        variant: Variant,
        pointers: Sequence[torch.Tensor],
        sizes: Mapping[str, int],
    ) -> None:
        if not made:
            made.append(launcher())
        there = Moved(device())
        made[0].prepare(kernel, variant, [there(one) for one in pointers], sizes)()
        there.bring_back()

    return run


def _launcher() -> Launcher:
    from benchmarks.gpu.worker import launchers_of

    return launchers_of([os.environ.get(LAUNCHER, "cubin")], _device())[0]


def _device() -> torch.device:
    import torch

    return torch.device("cuda")


def pytest_configure(config: Any) -> None:
    """Take the interpreter's place; helpers of tests import it after this."""
    interpreter.run = runner(_launcher, _device)
    interpreter.repair = lambda: None  # type: ignore[assignment]

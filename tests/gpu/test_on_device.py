"""Moving a test's memory to a device and back, without one: what shares memory still does."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from graphopt.codegen.triton.kernel import TritonKernel, Variant

from .on_device import Moved, runner

CPU = torch.device("cpu")


def test_memory_moves_there_and_back() -> None:
    keys = torch.arange(12, dtype=torch.bfloat16).view(3, 4)
    values, flags = keys[..., 1:3], torch.tensor([True, False, True])
    there = Moved(CPU)
    far_keys, far_values, far_flags = (there(one) for one in (keys, values, flags))
    assert torch.equal(far_keys, keys)
    assert torch.equal(far_values, values)
    far_values[0, 0] = 50.0
    assert far_keys[0, 1] == 50.0
    assert keys[0, 1] == 1.0
    far_flags[1] = True
    there.bring_back()
    assert keys[0, 1] == values[0, 0] == 50.0
    assert flags.tolist() == [True, True, True]


class Adds:
    """A launcher whose kernels add one to what they are given."""

    name = "adds"

    def prepare(
        self,
        kernel: TritonKernel,
        variant: Variant,
        pointers: Sequence[torch.Tensor],
        sizes: Mapping[str, int],
    ) -> Callable[[], None]:
        def run() -> None:
            for pointer in pointers:
                pointer += sizes["T"]

        return run


def test_a_run_through_a_launcher() -> None:
    made: list[Adds] = []

    def launcher() -> Any:
        made.append(Adds())
        return made[-1]

    run = runner(launcher, lambda: CPU)
    x, kernel = torch.zeros(3), TritonKernel("k", "", (), (), ())
    for _ in range(2):
        run(kernel, Variant("k"), [x], {"T": 2})
    assert x.tolist() == [4.0, 4.0, 4.0]
    assert len(made) == 1

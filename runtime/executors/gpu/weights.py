"""A model's weights on a GPU: one block, each weight at an aligned place in it.

before:  tensors in mapped files
after:   the same bytes on the device, in the order in which steps read them

A packed weight that PyTorch reads, too, is there twice: as kernels read it, and row after row.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from graphopt.ir.graph import Graph
from graphopt.ir.shape import evaluate
from graphopt.ir.types import TensorType
from graphopt.launch import LaunchKernel
from graphopt.plan import TRITON, Plan
from graphopt.safetensors_io import Weights

from ..weight_memory import Array
from .device import Device, rounded


@dataclass(frozen=True, slots=True)
class DeviceWeights:
    """Where weights are.

    Attributes:
        base: of all of them; given back as one.
        nbytes: that they take.
        addresses: of each, by name, as kernels read it: packed, if it is.
        plain: of each that PyTorch reads, row after row.
    """

    base: int
    nbytes: int
    addresses: Mapping[str, int]
    plain: Mapping[str, int]


def weights_read(plan: Plan, launches: Mapping[str, LaunchKernel]) -> tuple[list[str], list[str]]:
    """Names of the weights that kernels read, and of those that PyTorch reads, in their order.

    Args:
        plan: whose.
        launches: how its kernels are launched; they may leave some sizes to PyTorch.
    """
    by_kernels: list[str] = []
    by_pytorch: list[str] = []
    for step in plan.steps():
        names = [one[1:] for one in step.operands if isinstance(one, str) and one.startswith("@")]
        kernel = launches[step.kernel] if step.backend == TRITON else None
        if kernel is not None:
            by_kernels += names
        if kernel is None or any(one.library for one in kernel.variants):
            by_pytorch += names
    return by_kernels, by_pytorch


def unpacked_bytes(plan: Plan, launches: Mapping[str, LaunchKernel], graph: Graph) -> int:
    """Bytes of the copies of packed weights that PyTorch reads, which no file holds.

    Args:
        plan: what runs.
        launches: how its kernels are launched.
        graph: what the plan computes.
    """
    _, by_pytorch = weights_read(plan, launches)
    copied = plan.layouts.keys() & by_pytorch
    types = [one.type for one in graph.weights if one.name in copied]
    sizes = [
        math.prod(evaluate(dim, {}) for dim in one.shape) * one.dtype.nbytes
        for one in types
        if isinstance(one, TensorType)
    ]
    return sum(map(rounded, sizes))


def place_on(
    device: Device, weights: Weights, names: Iterable[str], plain: Iterable[str] = ()
) -> DeviceWeights:
    """Put weights on a device.

    Args:
        device: where to.
        weights: from where.
        names: of those that kernels read.
        plain: of those that PyTorch reads; one that is not packed is there once for both.

    Raises:
        ArtifactError: there is no weight of some name.
        MachineError: there is not enough memory.
    """
    stored = {name: weights.stored(name) for name in dict.fromkeys(names)}
    views = {name: weights.view(name) for name in dict.fromkeys(plain)}
    shared = {name for name in views.keys() & stored.keys() if _is_same(stored[name], views[name])}
    arrays = [
        *((name, True, array) for name, array in stored.items()),
        *((name, False, array) for name, array in views.items() if name not in shared),
    ]
    total = sum(rounded(array.nbytes) for _, _, array in arrays)
    base = end = device.allocate(total, "the weights")
    addresses: dict[str, int] = {}
    unpacked: dict[str, int] = {}
    for name, is_stored, array in arrays:
        (addresses if is_stored else unpacked)[name] = end
        device.write(end, array)
        end += rounded(array.nbytes)
    unpacked |= {name: addresses[name] for name in shared}
    return DeviceWeights(base, total, addresses, unpacked)


def _is_same(one: Array, other: Array) -> bool:
    """Whether two arrays are the same bytes of a file."""
    return one.ctypes.data == other.ctypes.data and one.nbytes == other.nbytes

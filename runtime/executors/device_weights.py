"""A model's weights on a GPU: one block, each weight at an aligned place in it.

before:  tensors in mapped files
after:   the same bytes on the device, in the order in which steps read them
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from graphopt.safetensors_io import Weights

from .device import Device, rounded
from .weight_memory import Array


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

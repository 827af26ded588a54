"""Weights reach the device as their files hold them, each once."""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import numpy as np

from graphopt.ir.dtype import DType
from graphopt.ir.types import TensorType
from graphopt.launch import LaunchVariant
from graphopt.runtime.executors.gpu.weights import place_on, unpacked_bytes, weights_read
from tests.runtime.executors.gpu.interpreted_device import InterpretedDevice
from tests.runtime.gpu_plan import KERNELS, gpu_plan


@dataclass
class Stored:
    """Weights of which ``packed`` is stored in another order."""

    arrays: dict[str, Any]

    def stored(self, name: str) -> Any:
        return self.arrays[name]

    def view(self, name: str) -> Any:
        found = self.arrays[name]
        return found.T.copy() if name == "packed" else found


def test_bytes_are_those_of_the_files() -> None:
    rng, device = np.random.default_rng(0), InterpretedDevice()
    names = {"one": (3, 5), "packed": (7, 4), "empty": (0, 4), "last": (1,)}
    weights: Any = Stored({name: rng.standard_normal(shape) for name, shape in names.items()})
    found = place_on(device, weights, ["one", "packed", "one", "empty"], ["packed", "one", "last"])
    assert found.addresses.keys() == {"one", "packed", "empty"}
    assert found.plain.keys() == {"packed", "one", "last"}
    for name, address in found.addresses.items():
        want = weights.stored(name)
        got = device.read(address, want.nbytes).view(want.dtype)
        np.testing.assert_array_equal(got.reshape(want.shape), want)
        assert address % 256 == 0
    for name, address in found.plain.items():
        want = weights.view(name)
        got = device.read(address, want.nbytes).view(want.dtype)
        np.testing.assert_array_equal(got.reshape(want.shape), want)
    assert found.plain["one"] == found.addresses["one"], "it is there once"
    assert found.plain["packed"] != found.addresses["packed"]
    assert len(device.blocks) == 1


def test_packed_weights_that_pytorch_reads_take_more_than_their_files() -> None:
    plan = gpu_plan()
    (piece, *rest) = plan.pieces
    read = replace(piece.steps[0], operands=("@both", 0, "@kernel"))
    torch = replace(piece.steps[0], backend="torch", kernel="", operands=("@both", "@plain", "@q"))
    steps = replace(piece, steps=(read, torch, *piece.steps[1:]))
    plan = replace(plan, pieces=(steps, *rest))
    assert weights_read(plan, KERNELS) == (["both", "kernel"], ["both", "plain", "q"])
    types = {"both": (3, 100), "kernel": (8, 8), "plain": (9, 9), "q": (5, 1)}
    weights = tuple(
        SimpleNamespace(name=name, type=TensorType(DType.BF16, shape))
        for name, shape in types.items()
    )
    graph: Any = SimpleNamespace(weights=weights)
    assert unpacked_bytes(plan, KERNELS, graph) == 0
    layouts: Any = {"both": None, "kernel": None, "q": None}
    packed = replace(plan, layouts=layouts)
    assert unpacked_bytes(packed, KERNELS, graph) == 768 + 256
    # A kernel that leaves some sizes to PyTorch has its weights both ways, too.
    name = read.kernel
    library = LaunchVariant({"T": 4}, (), "measured", library=True)
    leaving = replace(KERNELS[name], variants=(library, *KERNELS[name].variants))
    assert unpacked_bytes(packed, {**KERNELS, name: leaving}, graph) == 768 + 256 + 256

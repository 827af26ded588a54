"""Steps that PyTorch computes lie in the memory of all others, whatever overlaps there."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from graphopt.ir.builder import GraphBuilder
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph
from graphopt.ir.shape import sym
from graphopt.ir.types import LayerState, StateType, TensorType
from graphopt.plan import Step
from graphopt.runtime.executors.gpu.places import Places
from graphopt.runtime.executors.gpu.pytorch import TorchOnDevice
from graphopt.runtime.executors.gpu.state import DeviceState
from tests.runtime.executors.gpu.interpreted_device import InterpretedDevice
from tests.runtime.executors.test_slots import plan

T = sym("T")


def runner(device: Any, graph: Graph, state: StateType, weights: dict[str, int]) -> TorchOnDevice:
    return TorchOnDevice(device, replace(plan(), state=state), graph, weights)


@pytest.mark.parametrize("tokens", [0, 1, 5])
def test_a_result_may_lie_where_what_it_is_a_view_of_did(tokens: int) -> None:
    b = GraphBuilder("g")
    x = b.input("x", TensorType(DType.BF16, (T, 4)))
    w = b.weight("w", TensorType(DType.BF16, (4,)))
    parts = b.node("split", [x], {"dim": 1, "sizes": (2, 2)})
    graph = b.finish([*parts, b.one("mul", [x, w])])
    device = InterpretedDevice()
    given = torch.randn(tokens, 4).bfloat16()
    base = device.allocate(4096, "slots")
    device.write(base, given.view(torch.int16).numpy())
    device.write(base + 1024, torch.arange(4).bfloat16().view(torch.int16).numpy())
    # The first half comes to lie right where the whole was, the second somewhat later in it.
    slots = {0: base, 1: base, 2: base + 4 * tokens, 3: base + 2048}
    step = Step("torch", "k", (0, 1), (0, "@w"), (1, 2, 3))
    state = StateType("kv", ())
    one = runner(device, graph, state, {"w": base + 1024})
    none: Any = None
    one.run(0, step, Places(tokens, {}, slots), none, {"T": tokens})

    def found(address: int, width: int) -> torch.Tensor:
        raw = device.read(address, 2 * tokens * width).view(np.int16).copy()
        return torch.from_numpy(raw).view(torch.bfloat16).view(tokens, width)

    assert torch.equal(found(slots[1], 2), given[:, :2])
    assert torch.equal(found(slots[2], 2), given[:, 2:])
    assert torch.equal(found(slots[3], 4), given * torch.arange(4).bfloat16())


@pytest.mark.parametrize("kind", ["kv", "latent"])
def test_keys_and_values_are_those_of_kernels(kind: str) -> None:
    layer = LayerState(1, 3, 2, DType.F32)
    b = GraphBuilder("g")
    state = StateType(kind, (layer, layer))
    kv = b.input("kv", state)
    key = b.input("k", TensorType(DType.F32, (T, 1, 3)))
    value = b.input("v", TensorType(DType.F32, (T, 1, 2)))
    slots = b.input("slots", TensorType(DType.I64, (T,)))
    operands = [kv, key, slots] if kind == "latent" else [kv, key, value, slots]
    op = "latent_write" if kind == "latent" else "kv_write"
    graph = b.finish([b.one(op, operands, {"layer": 1})])
    device = InterpretedDevice()
    memory = DeviceState(device, replace(plan(), state=state), 2)
    base = device.allocate(1024, "slots")
    keys = np.arange(6, dtype=np.float32)
    device.write(base, keys)
    device.write(base + 256, 10 + np.arange(4, dtype=np.float32))
    device.write(base + 512, np.array([5, -1]))
    places = {1: base, 2: base + 256, 3: base + 512}
    given = ("%kv", 1, 3) if kind == "latent" else ("%kv", 1, 2, 3)
    step = Step("torch", op, (0,), given, ())
    runner(device, graph, state, {}).run(0, step, Places(2, {}, places), memory, {"T": 2})
    (first, second), rest = (
        [at for (one, _), at in memory.places.items() if one.value == "keys"],
        [at for (one, _), at in memory.places.items() if one.value == "values"],
    )
    assert not device.read(first, 8 * 3 * 4).any()
    written = device.read(second, 8 * 3 * 4).view(np.float32).reshape(8, 3)
    np.testing.assert_array_equal(written[5], keys[:3])
    assert not written[[0, 1, 2, 3, 4, 6, 7]].any(), "padding writes nothing"
    if kind == "kv":
        values = device.read(rest[1], 8 * 2 * 4).view(np.float32).reshape(8, 2)
        assert values[5].tolist() == [10, 11]

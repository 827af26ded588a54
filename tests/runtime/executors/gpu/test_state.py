"""Keys and values of each layer lie apart, aligned, and in a latent layer together."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest

from graphopt.errors import MachineError
from graphopt.ir.dtype import DType
from graphopt.ir.types import LayerState, StateType
from graphopt.plan_arguments import Kind
from graphopt.runtime.executors.gpu.state import DeviceState
from tests.runtime.executors.gpu.interpreted_device import InterpretedDevice
from tests.runtime.executors.test_slots import plan

LAYERS = (LayerState(2, 24, 16, DType.BF16), LayerState(1, 8, 8, DType.F32, 5))


def test_each_has_room_for_all_blocks() -> None:
    device = InterpretedDevice()
    state = DeviceState(device, replace(plan(), state=StateType("kv", LAYERS)), 3)
    spans = []
    for (kind, number), address in state.places.items():
        layer = LAYERS[number]
        size = layer.key_size if kind is Kind.KEYS else layer.value_size
        spans.append((address, address + 3 * 4 * layer.heads * size * layer.dtype.nbytes))
        assert address % 256 == 0
    spans.sort()
    assert len(spans) == 4
    assert all(end <= start for (_, end), (start, _) in pairwise(spans))
    assert not device.read(spans[0][0], spans[-1][1] - spans[0][0]).any(), "it holds zeros"
    state.close()
    assert device.blocks == {}


def test_values_of_a_latent_layer_are_its_keys() -> None:
    latent = replace(plan(), state=StateType("latent", LAYERS))
    state = DeviceState(InterpretedDevice(), latent, 3)
    for number in range(2):
        assert state.places[Kind.KEYS, number] == state.places[Kind.VALUES, number]


def test_too_many_blocks_name_the_knob() -> None:
    device = InterpretedDevice(total=1 << 12)
    with pytest.raises(MachineError, match="KV memory could not be allocated") as caught:
        DeviceState(device, replace(plan(), state=StateType("kv", LAYERS)), 1000)
    assert "kv_cache_memory" in str(caught.value)

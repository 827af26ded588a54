"""Weights reach the device as their files hold them, each once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from graphopt.runtime.executors.device_weights import place_on
from tests.runtime.executors.interpreted_device import InterpretedDevice


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

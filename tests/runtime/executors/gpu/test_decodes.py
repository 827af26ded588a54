"""What captured decodes are given: all, a block a row, or nothing; the device has the rest."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from graphopt.loop_kernels import ADVANCE, FROM_HOST
from graphopt.runtime.executor import StepInputs
from graphopt.runtime.executors.gpu.decodes import DeviceDecodes
from graphopt.runtime.executors.gpu.places import DevicePlaces
from graphopt.runtime.executors.padding import padded
from tests.runtime.executors.gpu.interpreted_artifact import tiny
from tests.runtime.executors.gpu.interpreted_device import InterpretedDevice

BLOCK, VOCAB = 16, 97
MOST = {"T": 8, "R": 8, "S": 8, "P": 6}
MADE = ("token_ids", "positions", "slots", "starts", "lengths", "tables")


class Decodes:
    """Inputs on a device, with the kernel that goes before each captured decode."""

    def __init__(self) -> None:
        self.device = InterpretedDevice()
        self.places = DevicePlaces(self.device, tiny().plan, MOST)
        self.decodes = DeviceDecodes(self.device, self.places, BLOCK)
        self.kernels = self.device.kernels({ADVANCE: tiny().launch(ADVANCE)}, tiny().cubin)
        self.sampled = self.device.allocate(8 * 8, "tokens")
        self.counters = self.device.allocate(8 * 8, "counters")

    def step(self, inputs: StepInputs, sources: np.ndarray | None, size: int) -> int:
        """Bytes that the host writes for a step; what lies there then is what the step takes."""
        sizes = {"T": size, "R": size, "S": size, "P": 6}
        before = self.device.copied_bytes
        self.decodes.put(inputs, sources, sizes)
        written = self.device.copied_bytes - before
        pointers = self.decodes.pointers(sizes, self.sampled, self.counters)
        self.kernels.launch(ADVANCE, pointers, sizes)
        expected = padded(inputs, sizes)
        for name in MADE:
            want = getattr(expected, name)
            place = self.places.at(size).inputs[name]
            found = self.device.read(place, want.nbytes).view(want.dtype).reshape(want.shape)
            np.testing.assert_array_equal(found, want, err_msg=name)
        return written

    def draw(self, tokens: np.ndarray) -> None:
        """Tokens that the step before drew."""
        self.device.write(self.sampled, tokens)


def decode(tokens: np.ndarray, lengths: np.ndarray, tables: np.ndarray) -> StepInputs:
    """A step of sequences whose last tokens these are."""
    count, positions = len(tokens), lengths.astype(np.int64) - 1
    owners = tables[np.arange(count), positions // BLOCK].astype(np.int64)
    blocks = max(-(-lengths // BLOCK))
    used = np.arange(blocks) < -(-lengths // BLOCK)[:, None]
    return StepInputs(
        token_ids=tokens,
        positions=positions,
        rows=np.arange(count),
        slots=owners * BLOCK + positions % BLOCK,
        starts=np.arange(count + 1, dtype=np.int32),
        lengths=lengths.astype(np.int32),
        tables=np.where(used, tables[:, :blocks], 0).astype(np.int32),
    )


@pytest.mark.interpreted
@pytest.mark.parametrize("count", [1, 3])
def test_sequences_that_go_on_need_next_to_nothing(count: int) -> None:
    rng, one = np.random.default_rng(count), Decodes()
    tables = rng.permutation(24)[: 6 * count].reshape(count, 6)
    lengths, tokens = rng.integers(10, 40, count), rng.integers(0, VOCAB, count)
    assert one.step(decode(tokens, lengths, tables), None, 4) > 4 * 6 * 4
    own = np.arange(count)
    steady = 0
    for _ in range(14):
        tokens, lengths = rng.integers(0, VOCAB, count), lengths + 1
        one.draw(tokens)
        begins = (lengths % BLOCK == 1).any()
        written = one.step(decode(tokens, lengths, tables), own, 4)
        assert written == (4 * count if begins else 0)
        steady += not begins
    assert steady >= 8


@pytest.mark.interpreted
def test_whatever_else_comes_is_written() -> None:
    rng, one = np.random.default_rng(5), Decodes()
    tables = rng.permutation(24).reshape(4, 6)
    lengths, tokens = np.array([5, 18, 20, 36]), rng.integers(0, VOCAB, 4)
    full = one.step(decode(tokens, lengths, tables), np.full(4, FROM_HOST), 4)

    def next_step(rows: list[int], sources: list[int], size: int = 4) -> int:
        nonlocal lengths, tokens, tables
        drawn = rng.integers(0, VOCAB, 4)
        one.draw(drawn)
        tables, lengths = tables[rows], lengths[rows] + 1
        tokens = np.where(np.array(sources) < 0, 11, drawn[sources])
        return one.step(decode(tokens, lengths, tables), np.array(sources), size)

    assert next_step([0, 1, 2, 3], [0, 1, 2, 3]) == 0
    assert next_step([0, 1, 3], [0, 1, 3]) == full, "one has left"
    assert next_step([0, 1, 2], [0, 1, 2]) == 0
    assert next_step([2, 0, 1], [2, 0, 1]) == full, "another order"
    assert next_step([0, 1, 2], [0, 1, 2]) == 0
    assert next_step([0, 1, 2], [0, FROM_HOST, 2]) == full, "the host knows a token"
    assert next_step([0, 1, 2], [0, 1, 2], 8) > full, "another graph"
    one.decodes.forget()
    assert next_step([0, 1, 2], [0, 1, 2]) == full, "other inputs lay there"
    lengths = lengths + 1
    assert next_step([0, 1, 2], [0, 1, 2]) == full, "more than a token on"


@pytest.mark.interpreted
def test_what_the_runner_does_next_to_its_arrays_changes_nothing() -> None:
    one, tables = Decodes(), np.arange(6).reshape(1, 6)
    inputs = decode(np.array([3]), np.array([9]), tables)
    one.step(inputs, None, 1)
    inputs.lengths[:] += 5
    one.draw(np.array([7]))
    following = decode(np.array([7]), np.array([10]), tables)
    assert one.step(replace(following), np.array([0]), 1) == 0

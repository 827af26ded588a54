"""Captured decodes through the engine: random arrivals, aborts and preemptions change no token,
and where sequences only go on nothing is copied to the device."""

from __future__ import annotations

import random
from collections import deque
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from graphopt.artifact import Artifact
from graphopt.loop_kernels import ADVANCE_OPERANDS, ADVANCE_RESULTS, IN_TABLE, PADDING
from graphopt.runtime.capture_plan import NOTHING_CAPTURED, CapturePlan
from graphopt.runtime.dispatch import BatchShape
from graphopt.runtime.engine import Engine, EngineConfig
from graphopt.runtime.executor import Sampled, SamplingInputs, StepInputs
from graphopt.runtime.executors.gpu.decodes import DeviceDecodes
from graphopt.runtime.executors.gpu.device import Device
from graphopt.runtime.executors.gpu.executor import CudaExecutor
from graphopt.runtime.executors.gpu.places import INPUTS, DevicePlaces
from graphopt.runtime.executors.layouts import power_of_two_from
from graphopt.runtime.sampling_params import SamplingParams
from graphopt.runtime.scheduler import SchedulerLimits
from graphopt.safetensors_io import numpy_dtype
from tests.runtime.executors.gpu.interpreted_artifact import tiny
from tests.runtime.executors.gpu.interpreted_device import InterpretedDevice
from tests.runtime.executors.gpu.test_places import decoder_plan
from tests.runtime.fakes import OverlappingHash
from tests.runtime.simulation import simulate

MOST = {"T": 64, "R": 64, "S": 64, "P": 32}
DECODES = CapturePlan((1, 2, 4), (), 3, (0,) * 3, ())


class DecodingHash(OverlappingHash):
    """The hash model, whose decodes run on what ``advance`` makes of what the host has written.

    Attributes:
        steady: decodes before which nothing was written.
        begun: decodes before which only blocks were.
        full: decodes of which everything was written.
    """

    def __init__(self, vocab_size: int = 13, block_size: int = 2, max_rows: int = 64) -> None:
        super().__init__(vocab_size, block_size, max_rows)
        self.device = InterpretedDevice()
        self.places = DevicePlaces(self.device, decoder_plan(), MOST)
        self.decodes = DeviceDecodes(self.device, self.places, block_size)
        self.landed: deque[Sampled] = deque()
        self.steady = self.begun = self.full = 0

    def start(self, inputs: StepInputs, sampling: SamplingInputs, sources: np.ndarray) -> None:
        if BatchShape.of(inputs).is_decode:
            found = self._decoded(inputs, sources)
        else:
            self.decodes.forget()
            drawn = [self.drawn[n] if n >= 0 else 0 for n in sources]
            tokens = np.where(sources >= 0, drawn, inputs.token_ids)
            found = replace(inputs, token_ids=tokens)
        sampled = self.run(found, sampling)
        self.drawn = sampled.token_ids
        self.landed.append(sampled)
        self.most_waiting = max(self.most_waiting, len(self.landed))

    def finish(self) -> Sampled:
        return self.landed.popleft()

    def _decoded(self, inputs: StepInputs, sources: np.ndarray) -> StepInputs:
        """A decode's inputs as the device has them."""
        count = len(inputs.lengths)
        size = power_of_two_from(count)
        sizes = {"T": size, "R": size, "S": size, "P": MOST["P"]}
        before = self.device.copied_bytes
        self.decodes.put(inputs, sources, sizes)
        written = self.device.copied_bytes - before
        self.steady += written == 0
        self.begun += written == 4 * count
        self.full += written > 4 * count
        self._advance(sizes)
        found = {name: self._array(name, size) for name in INPUTS}
        tables = found["tables"].reshape(size, MOST["P"])[:count, : inputs.tables.shape[1]]
        kept = {name: found[name][:count] for name in ("token_ids", "positions", "slots", "rows")}
        kept |= {"starts": found["starts"][: count + 1], "lengths": found["lengths"][:count]}
        made = StepInputs(**kept, tables=np.ascontiguousarray(tables))
        for name in ("positions", "rows", "slots", "starts", "lengths"):
            np.testing.assert_array_equal(getattr(made, name), getattr(inputs, name), name)
        used = -(-inputs.lengths // self.block_size)
        inside = np.arange(tables.shape[1]) < used[:, None]
        np.testing.assert_array_equal(made.tables[inside], inputs.tables[inside])
        return made

    def _array(self, name: str, size: int) -> np.ndarray:
        """What the device has of an input, to be changed in place."""
        count = {"starts": size + 1, "tables": size * MOST["P"]}.get(name, size)
        dtype = np.dtype(numpy_dtype(INPUTS[name]))
        place = self.places.at(size).inputs[name]
        return self.device.view(place, count * dtype.itemsize).view(dtype)

    def _advance(self, sizes: dict[str, int]) -> None:
        """What the kernel of this name does, row after row."""
        named = {*ADVANCE_OPERANDS, *ADVANCE_RESULTS} & INPUTS.keys()
        arrays = {name: self._array(name, sizes["S"]) for name in named}
        tables = arrays["tables"].reshape(sizes["S"], sizes["P"])
        for row in range(sizes["S"]):
            source, length = arrays["sources"][row], arrays["lengths"][row]
            column = length // self.block_size
            if source == PADDING:
                made = (0, 0, -1, 0)
            else:
                begun = arrays["new_blocks"][row]
                if begun != IN_TABLE:
                    tables[row, column] = begun
                slot = tables[row, column] * self.block_size + length % self.block_size
                token = self.drawn[source] if source >= 0 else arrays["token_ids"][row]
                made = (token, length, slot, length + 1)
                arrays["new_blocks"][row], arrays["sources"][row] = IN_TABLE, row
            names = ("token_ids", "positions", "slots", "lengths")
            for name, value in zip(names, made, strict=True):
                arrays[name][row] = value
        arrays["rows"][:], arrays["starts"][:] = np.arange(sizes["S"]), np.arange(sizes["S"] + 1)


def test_any_history_of_decodes_gives_the_same() -> None:
    runs = [simulate(seed, operations=100, executor_type=DecodingHash) for seed in range(12)]
    assert sum(run.preemptions for run in runs) > 20
    executors = [run.engine._executor for run in runs]
    steady, begun, full = (
        sum(getattr(one, name) for one in executors) for name in ("steady", "begun", "full")
    )
    assert min(steady, begun, full) > 30, (steady, begun, full)


def histories(
    artifact: Artifact, device: Device, captured: CapturePlan, seed: int, requests: int
) -> tuple[dict[str, Any], int, int]:
    """What random requests get, preemptions, and steps that nothing was written for.

    Args:
        artifact: of a model with a vocabulary of 97.
        device: where; closed.
        captured: decodes that are captured.
        seed: of the requests.
        requests: how many.
    """
    rng = random.Random(seed)
    limits = SchedulerLimits(
        max_num_seqs=4, max_num_batched_tokens=10, max_rows=12, max_model_len=48
    )
    executor = CudaExecutor(artifact, device, limits, captured, watchdog_seconds=300.0)
    engine = Engine(executor, EngineConfig(limits, num_blocks=4))
    found: dict[str, Any] = {}
    silent = number = preemptions = 0
    while number < requests or engine.has_work:
        if number < requests and (rng.random() < 0.6 or not engine.has_work):
            prompt = [
                rng.randrange(97) for _ in range(rng.choice([3, 13, 15, 25][: requests // 2]))
            ]
            params = SamplingParams(
                max_tokens=rng.choice([5, 9, 17][:requests]),
                temperature=rng.choice([0.0, 0.9]),
                top_p=rng.choice([1.0, 0.8]),
                seed=number,
                logprobs=rng.choice([None, None, 2]),
                logit_bias=rng.choice([None, None, {5: 3.0}]),
                ignore_eos=True,
            )
            engine.add_request(str(number), prompt, params)
            number += 1
        if rng.random() < 0.03:
            engine.abort(str(rng.randrange(number)))
        before = device.copied_bytes
        for output in engine.step().finished:
            assert output.error is None
            found[output.request_id] = output.completions[0]
            preemptions += output.metrics.preemptions
        engine.check()
        silent += bool(engine._flights) and device.copied_bytes == before
    engine.close()
    return found, preemptions, silent


@pytest.mark.interpreted
@pytest.mark.parametrize(
    ("seed", "requests"), [(3, 2), *(pytest.param(n, 8, marks=pytest.mark.full) for n in (5, 9))]
)
def test_captured_decodes_sample_what_plain_ones_do(seed: int, requests: int) -> None:
    devices = InterpretedDevice(), InterpretedDevice()
    plain, _, loud = histories(tiny(), devices[0], NOTHING_CAPTURED, seed, requests)
    captured, preemptions, silent = histories(tiny(), devices[1], DECODES, seed, requests)
    assert captured.keys() == plain.keys()
    for name, one in plain.items():
        other = captured[name]
        assert other.token_ids == one.token_ids
        if one.logprobs is not None:
            for mine, theirs in zip(other.logprobs, one.logprobs, strict=True):
                assert mine.logprob == pytest.approx(theirs.logprob, abs=1e-4)
    assert loud == 0
    assert silent >= requests, "most decodes need nothing from the host"
    assert devices[1].replays > silent
    assert preemptions > 0 or requests < 8


@pytest.mark.interpreted
def test_a_device_that_hangs_ends_all_requests_and_says_where() -> None:
    limits = SchedulerLimits(
        max_num_seqs=4, max_num_batched_tokens=10, max_rows=12, max_model_len=48
    )
    device = InterpretedDevice()
    executor = CudaExecutor(tiny(), device, limits, DECODES, watchdog_seconds=5.0)
    engine = Engine(executor, EngineConfig(limits, num_blocks=4))
    params = SamplingParams(max_tokens=9, temperature=0.0, ignore_eos=True)
    for name in ("one", "two"):
        engine.add_request(name, [3, 4], params)
    engine.step()
    device.hangs_in = "attention"
    found = {}
    while engine.has_work:
        found |= {one.request_id: one.error for one in engine.step().finished}
        engine.check()
    assert found.keys() == {"one", "two"}
    where = "p1 (attention of model.layers.0.self_attn) of the captured decode of 2 sequences"
    assert {error.where for error in found.values()} == {where}
    engine.add_request("three", [5], params)
    found = {one.request_id: one.error for one in engine.step().finished}
    assert "has not answered since" in str(found["three"])
    engine.close()

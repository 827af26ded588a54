"""Rows of logits on a device to tokens on the host, many rows some at a time."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from graphopt.artifact import Artifact
from graphopt.errors import UsageError
from graphopt.ir.shape import sym
from graphopt.launch import LaunchKernel
from graphopt.loop_kernels import SAMPLE, SAMPLE_OPERANDS
from graphopt.runtime.executor import F32, Masks, Ragged, SamplingInputs
from graphopt.runtime.executors.gpu import sampler as device_sampler
from graphopt.runtime.executors.gpu.sampler import (
    DeviceSampler,
    operands,
    rows_at_once,
    sampling_bytes,
)
from graphopt.runtime.sampler import sample
from tests.codegen.cpp.sampling_cases import disagreements, random_inputs, random_logits
from tests.runtime.executors.gpu.interpreted_artifact import tiny
from tests.runtime.executors.gpu.interpreted_device import InterpretedDevice

VOCAB = 97
MOST = 40


def sampler(device: InterpretedDevice) -> DeviceSampler:
    artifact: Artifact = tiny()
    kernel: LaunchKernel = artifact.launch(SAMPLE)
    return DeviceSampler(device, kernel, artifact.cubin, VOCAB, MOST)


def place(device: InterpretedDevice, logits: F32) -> int:
    address = device.allocate(logits.nbytes, "logits")
    device.write(address, logits)
    return address


@pytest.mark.interpreted
@pytest.mark.parametrize("rows", [1, 17])
def test_tokens_are_those_of_numpy(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_sampler, "WORK_BYTES", 1)  # 16 rows at a time
    device, rng = InterpretedDevice(), np.random.default_rng(rows)
    one = sampler(device)
    for _ in range(2 if rows == 1 else 1):
        logits = np.stack([random_logits(rng, VOCAB) for _ in range(rows)])
        inputs = random_inputs(rng, rows, VOCAB)
        address = place(device, logits)
        with np.errstate(all="ignore"):
            got, want = one.start(address, inputs)(), sample(logits, inputs)
            assert disagreements(logits, inputs, got, want, 2e-8) <= 1
        device.free(address)
    assert len(device.launched) == 2
    assert one.workspaces().keys() == {"the workspace of sample"}
    one.close()
    assert device.blocks.keys() == set(one.workspaces().values())
    device.close()


@pytest.mark.interpreted
def test_a_greedy_step_reads_little() -> None:
    device = InterpretedDevice()
    one = sampler(device)
    logits = np.random.default_rng(1).standard_normal((3, VOCAB)).astype(np.float32)
    found = one.start(place(device, logits), SamplingInputs(3))()
    np.testing.assert_array_equal(found.token_ids, logits.argmax(1))
    assert found.logprobs is None
    tokens = device.read(one.results, 24).view(np.int64)
    np.testing.assert_array_equal(tokens, found.token_ids)


@pytest.mark.interpreted
def test_parameters_of_greedy_rows_are_written_once(monkeypatch: pytest.MonkeyPatch) -> None:
    device, rng = InterpretedDevice(), np.random.default_rng(2)
    one = sampler(device)
    logits = rng.standard_normal((3, VOCAB)).astype(np.float32)
    address, written = place(device, logits), []
    write = device.write
    monkeypatch.setattr(device, "write", lambda *given: (written.append(given[0]), write(*given)))
    banned = logits.argmax(1)
    lists = Ragged(np.arange(4), banned, np.zeros(3, np.float32))
    plain = SamplingInputs(3)
    steps = (plain, plain, replace(plain, banned=lists), plain, SamplingInputs(2), plain, plain)
    for inputs, more in zip(steps, (1, 0, 2, 1, 1, 1, 0), strict=True):
        before = len(written)
        found = one.start(address, inputs)()
        want = sample(logits[: inputs.num_rows], inputs).token_ids
        np.testing.assert_array_equal(found.token_ids, want)
        assert len(written) - before == more


@pytest.mark.interpreted
def test_room_for_more_masks_is_taken_when_they_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_sampler, "MASKS", 2)
    device, moved = InterpretedDevice(), []
    artifact = tiny()
    one = DeviceSampler(
        device, artifact.launch(SAMPLE), artifact.cubin, VOCAB, MOST, lambda: moved.append(1)
    )
    rng = np.random.default_rng(4)
    logits = rng.standard_normal((17, VOCAB)).astype(np.float32)
    address = place(device, logits)
    for count, times in ((0, 0), (1, 0), (2, 0), (3, 1), (17, 2), (2, 2)):
        rows = np.full(17, -1, np.int64)
        rows[:count] = rng.permutation(count)
        words = rng.integers(1, 2**32, (count, 4), dtype=np.uint32)
        inputs = SamplingInputs(17, masks=Masks(rows, words))
        found = one.start(address, inputs)().token_ids
        np.testing.assert_array_equal(found, sample(logits, inputs).token_ids)
        assert len(moved) == times
    one.close()


def test_no_rows_and_wrong_targets_launch_nothing() -> None:
    device = InterpretedDevice()
    one = sampler(device)
    assert len(one.start(0, SamplingInputs(0))().token_ids) == 0
    asked = one.start(0, SamplingInputs(0, num_logprobs=np.zeros(0, np.int64)))()
    assert asked.top_ids is not None
    with pytest.raises(UsageError, match="a target is no token"):
        one.start(0, SamplingInputs(1, targets=np.array([VOCAB])))
    with pytest.raises(UsageError, match="no seeds"):
        one.start(0, SamplingInputs(1, temperature=np.ones(1, np.float32)))
    assert device.launched == []


def test_rows_at_once_are_as_many_as_memory_allows() -> None:
    kernel = tiny().launch(SAMPLE)
    assert rows_at_once(kernel, 1) == 16
    assert rows_at_once(kernel, 40) == 48
    wide = replace(kernel, workspace=sym("R") * (1 << 22))
    assert rows_at_once(wide, 1000) == 64
    assert rows_at_once(replace(kernel, workspace=sym("R") * (1 << 30)), 1000) == 16


def test_what_no_row_uses_is_there() -> None:
    plain = operands(SamplingInputs(3))
    assert list(plain) == list(SAMPLE_OPERANDS)
    assert plain["targets"].tolist() == [-1] * 3
    assert plain["top_ps"].tolist() == plain["repetition"].tolist() == [1.0] * 3
    assert plain["num_logprobs"].tolist() == [-1] * 3
    assert plain["mask_rows"].tolist() == [-1] * 3
    assert plain["bias_starts"].tolist() == [0] * 4
    lists = Ragged(np.array([0, 1, 1, 2]), np.array([5, 6]), np.array([0.5, -1], np.float32))
    found = operands(SamplingInputs(3, bias=lists, banned=lists))
    assert found["bias_tokens"][:2].tolist() == found["banned_tokens"][:2].tolist() == [5, 6]
    assert found["bias_values"][:2].tolist() == [0.5, -1]
    assert all(len(found[name]) >= 1 for name in found)


@pytest.mark.interpreted
def test_parameters_that_go_on_are_not_written_again() -> None:
    device, rng = InterpretedDevice(), np.random.default_rng(6)
    one = sampler(device)
    logits = rng.standard_normal((4, VOCAB)).astype(np.float32)
    address = place(device, logits)
    numbers = np.arange(3, dtype=np.uint64)
    inputs = SamplingInputs(
        3,
        temperature=np.array([0.7, 0.0, 1.4], np.float32),
        seeds=numbers + np.uint64(2**63),
        streams=numbers,
        counters=np.array([0, 7, 2**40], np.uint64),
        bias=Ragged(np.array([0, 0, 1, 1]), np.array([9]), np.array([2.5], np.float32)),
        num_logprobs=np.array([-1, 2, 0]),
    )

    def step(inputs: SamplingInputs) -> int:
        before = device.copied_bytes
        one.put(inputs, 4, advancing=True)
        counters = device.read(one.counters(4), 24).view(np.uint64)
        device.write(one.counters(4), counters + np.uint64(1))  # as ``advance`` does
        one.launch(address, 4)
        got, want = one.fetch(inputs, 4)(), sample(logits[:3], inputs)
        assert disagreements(logits[:3], inputs, got, want, 2e-8) == 0
        return device.copied_bytes - before - 24

    def later(inputs: SamplingInputs, **changed: Any) -> SamplingInputs:
        return replace(inputs, counters=inputs.counters + np.uint64(1), **changed)

    full = step(inputs)
    assert full > 256
    for _ in range(3):
        inputs = later(inputs)
        assert step(inputs) == 0
    for changed in (
        {"temperature": np.array([0.7, 0.0, 1.3], np.float32)},
        {"bias": replace(inputs.bias, values=np.array([3.5], np.float32))},
        {"num_logprobs": np.array([-1, 1, 0])},
    ):
        inputs = later(inputs, **changed)
        assert step(inputs) == full
        inputs = later(inputs)
        assert step(inputs) == 0
    inputs = later(later(inputs))
    assert step(inputs) == full, "a token was left out"
    one.forget()
    inputs = later(inputs)
    assert step(inputs) == full
    inputs = later(inputs, bias=None, num_logprobs=None)
    assert step(inputs) < full, "no list"


@pytest.mark.interpreted
def test_more_entries_and_reports_than_ever_move_what_is_captured() -> None:
    device, rng, moved = InterpretedDevice(), np.random.default_rng(8), []
    kernel = tiny().launch(SAMPLE)
    one = DeviceSampler(device, kernel, tiny().cubin, VOCAB, MOST, lambda: moved.append(1))
    logits = rng.standard_normal((2, VOCAB)).astype(np.float32)
    address, before = place(device, logits), one.addresses()
    count = device_sampler.LIST_ENTRIES // 2 + 1
    banned = Ragged(np.array([0, count, 2 * count]), np.zeros(2 * count, np.int64), np.zeros(0))
    for inputs, name in (
        (SamplingInputs(2, num_logprobs=np.array([-1, 50])), "reported tokens"),
        (SamplingInputs(2, banned=banned), "lists of sampling"),
    ):
        for times in (1, 0):  # once it is there, it stays
            moved.clear()
            got, want = one.start(address, inputs)(), sample(logits, inputs)
            assert disagreements(logits, inputs, got, want, 2e-8) == 0
            assert len(moved) == times
        assert one.addresses()[name] != before[name]
    assert one.addresses()["sampled tokens"] == before["sampled tokens"]


def test_bytes_are_those_that_are_taken() -> None:
    device = InterpretedDevice()
    one = sampler(device)
    taken = device.total - device.memory()[0]
    shared = tiny().launch(SAMPLE).workspace_bytes({"R": rows_at_once(tiny().launch(SAMPLE), MOST)})
    assert taken == sampling_bytes(MOST, VOCAB) + shared
    one.close()

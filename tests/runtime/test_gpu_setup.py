"""What is opened for a GPU is closed if something is wrong; its options are refused on a CPU."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from graphopt.errors import MachineError, UsageError
from graphopt.runtime import gpu_setup
from graphopt.runtime.capture_choice import choose_captures
from graphopt.runtime.capture_cost import LAUNCH_BYTES
from graphopt.runtime.gpu_setup import GpuOptions, is_for_gpu, open_gpu
from graphopt.runtime.llm import LLM
from graphopt.runtime.preflight_gpu import RESERVE_BYTES, gpu_room, gpu_step_bytes
from graphopt.runtime.sampling_params import SamplingParams
from graphopt.runtime.scheduler import SchedulerLimits

from .fakes import small_plan
from .gpu_plan import KERNELS, gpu_plan

LIMITS = SchedulerLimits(32, 1024, 64, 64)
GIB = 1 << 30


class SomeArtifact:
    """What is asked of an artifact before it is loaded."""

    plan = gpu_plan()
    launch_archs = dict.fromkeys(KERNELS, "sm_90")
    launch = staticmethod(KERNELS.__getitem__)


@dataclass
class SomeDevice:
    """A device that knows its memory."""

    fails: bool = False
    closed: int = 0

    def memory(self) -> tuple[int, int]:
        if self.fails:
            raise MachineError("the device is lost")
        return 70 * GIB, 80 * GIB

    def close(self) -> None:
        self.closed += 1


def opened(options: GpuOptions, device: SomeDevice, kv: int | None = None):
    return open_gpu(SomeArtifact(), LIMITS, options, kv, lambda plan: device)


def test_everything_is_decided_from_what_is_measured(tmp_path: Path):
    device = SomeDevice()
    setup = opened(GpuOptions(0.5), device)
    assert setup.device is device
    assert setup.room == gpu_room(70 * GIB, 80 * GIB, 0.5)
    assert setup.captured == choose_captures(SomeArtifact.plan, KERNELS, LIMITS)
    assert setup.step_bytes(LIMITS) == gpu_step_bytes(SomeArtifact.plan, KERNELS)(LIMITS)
    assert opened(GpuOptions(), device, 4 * GIB).room.utilization == 1.0
    shape = {"tokens": 3, "rows": 3, "sequences": 3, "blocks": 1, "longest_query": 1}
    (tmp_path / "trace").write_text(json.dumps(shape) + "\n", encoding="utf-8")
    fitted = opened(GpuOptions(capture_trace=tmp_path / "trace"), device)
    assert fitted.captured.decode_sizes == (3, 32)
    assert fitted.step_bytes(LIMITS).graphs == fitted.captured.total_bytes
    assert device.closed == 0


def test_a_device_is_closed_if_something_is_wrong(tmp_path: Path):
    device = SomeDevice()
    with pytest.raises(UsageError, match="share"):
        opened(GpuOptions(2.0), device)
    assert device.closed == 1
    lost = SomeDevice(fails=True)
    with pytest.raises(MachineError, match="lost"):
        opened(GpuOptions(), lost)
    assert lost.closed == 1
    with pytest.raises(UsageError, match="cannot be read"):  # before the device is opened
        opened(GpuOptions(capture_trace=tmp_path / "none"), device)
    assert device.closed == 1


def test_options_for_a_gpu_are_refused_on_a_cpu():
    GpuOptions().demand_gpu(small_plan())
    GpuOptions(0.5, "trace").demand_gpu(gpu_plan())
    with pytest.raises(UsageError, match="runs on a CPU") as caught:
        GpuOptions(0.5, "trace").demand_gpu(small_plan())
    assert caught.value.got == "gpu_memory_utilization, capture_trace"
    with pytest.raises(UsageError, match="runs on a CPU"):
        GpuOptions(lazy_captures=True, watchdog_seconds=9.0).demand_gpu(small_plan())
    with pytest.raises(UsageError, match="runs on a CPU") as caught:
        GpuOptions(unmarked_captures=True).demand_gpu(small_plan())
    assert caught.value.got == "unmarked_captures"


def test_the_watchdog_is_generous_and_has_a_time():
    assert GpuOptions().patience_s == 300.0
    assert GpuOptions(watchdog_seconds=0.0).patience_s == 0.0
    assert GpuOptions(watchdog_seconds=2.5).patience_s == 2.5
    for seconds in (-1.0, float("nan"), float("inf")):
        with pytest.raises(UsageError, match="is no time"):
            GpuOptions(watchdog_seconds=seconds).demand_gpu(gpu_plan())


@pytest.mark.interpreted
@pytest.mark.parametrize(("lazy", "unmarked"), [(False, False), (False, True), (True, False)])
def test_captures_are_made_at_the_start_or_when_they_are_needed(
    lazy: bool, unmarked: bool, monkeypatch: pytest.MonkeyPatch
):
    from tests.runtime.executors.gpu.interpreted_artifact import tiny
    from tests.runtime.executors.gpu.interpreted_device import InterpretedDevice

    device, told = InterpretedDevice(), []
    monkeypatch.setattr(gpu_setup, "this_gpu", lambda plan: device)
    with LLM(
        tiny(),
        max_num_seqs=4,
        max_num_batched_tokens=12,
        max_model_len=48,
        lazy_captures=lazy,
        unmarked_captures=unmarked,
        progress=lambda stage, done, total: told.append((stage, done, total)),
    ) as llm:
        stages = [(done, total) for stage, done, total in told if stage == "capturing"]
        planned = llm.engine._executor.captures.plan
        count = len(planned.decode_sizes) + len(planned.piece_sizes)
        assert stages == ([] if lazy else [(number, count) for number in range(count + 1)])
        assert device.captures == (0 if lazy else count)  # this model has one piece to capture
        assert device.patience_s == 300.0
        assert bool(device.captured_marks) is not (lazy or unmarked)
    assert is_for_gpu(gpu_plan())
    assert not is_for_gpu(replace(gpu_plan(), target="cpu:avx2"))


@pytest.mark.interpreted
def test_an_llm_on_a_gpu_takes_what_it_said_and_answers_as_transformers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Twice: with the usual captures, recording; then with those that fit the recording."""
    from tests.models.harness import generated
    from tests.runtime.executors.gpu.interpreted_artifact import reference_of, tiny
    from tests.runtime.executors.gpu.interpreted_device import InterpretedDevice

    prompts, trace = [[5, 6, 7, 8, 9, 10, 11, 3, 4], [3, 4, 5]], tmp_path / "trace"
    expected = [generated(reference_of(tiny()), prompt, 3) for prompt in prompts]
    greedy = SamplingParams(max_tokens=3, temperature=0.0, ignore_eos=True)
    for options in ({"record_trace": trace}, {"capture_trace": trace}):
        device = InterpretedDevice(node_bytes=LAUNCH_BYTES)
        monkeypatch.setattr(gpu_setup, "this_gpu", lambda plan, device=device: device)
        with LLM(
            tiny(), max_num_seqs=4, max_num_batched_tokens=12, max_model_len=48, **options
        ) as llm:
            found = [list(one.token_ids) for one in llm.generate(prompts, greedy)]
            assert found == expected
            assert device.replays > 0
            free, total = device.memory()
            # Arrays begin at multiples of 256, and the guard of this device counts.
            assert total - free <= llm.memory.total_bytes + 4096
            assert total - free > llm.memory.total_bytes - llm.memory.step_bytes.graphs - 4096
        assert device.blocks == {}


@pytest.mark.interpreted
def test_a_model_that_does_not_fit_is_refused_and_the_device_closed(
    monkeypatch: pytest.MonkeyPatch,
):
    from tests.runtime.executors.gpu.interpreted_artifact import tiny
    from tests.runtime.executors.gpu.interpreted_device import InterpretedDevice

    closed = []

    class Watched(InterpretedDevice):
        def close(self) -> None:
            closed.append(self)
            super().close()

    monkeypatch.setattr(gpu_setup, "this_gpu", lambda plan: Watched(total=RESERVE_BYTES + 9999))
    with pytest.raises(MachineError, match="does not fit"):
        LLM(tiny(), max_num_seqs=4, max_num_batched_tokens=12)
    assert len(closed) == 1

"""What is decided on a GPU before anything is loaded: the device, its room, and what is captured.

before:  an artifact for a GPU, what a step may hold, and what a user asks for
after:   what ``preflight`` decides with, then the executor
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from graphopt.artifact import Artifact
from graphopt.errors import UsageError
from graphopt.ir.parser import parse_graph
from graphopt.plan import Plan
from graphopt.progress import ProgressFn, silent
from graphopt.target import Target

from .preflight import Room, StepBytesOf
from .scheduler import SchedulerLimits

if TYPE_CHECKING:
    from .capture_plan import CapturePlan
    from .executor import Executor
    from .executors.gpu.device import Device

# The longest steps take a second or two; what takes minutes does not end.
DEFAULT_WATCHDOG_S = 300.0


@dataclass(frozen=True, slots=True)
class GpuOptions:
    """What a user may ask of a GPU.

    Attributes:
        memory_utilization: the share of its memory that may be taken; None for the default.
        capture_trace: a file with batches to capture for; None for sizes that suit any workload.
        lazy_captures: whether sizes are captured when a step needs them, not at the start.
        watchdog_seconds: how long a step may take from when it is waited for, 0 for ever; None for
            the default.
        unmarked_captures: whether captured decodes are left without marks that tell which piece of
            one hangs.
    """

    memory_utilization: float | None = None
    capture_trace: str | Path | None = None
    lazy_captures: bool = False
    watchdog_seconds: float | None = None
    unmarked_captures: bool = False

    @property
    def patience_s(self) -> float:
        """How long a step may take, in seconds; 0 for ever."""
        return DEFAULT_WATCHDOG_S if self.watchdog_seconds is None else self.watchdog_seconds

    def demand_gpu(self, plan: Plan) -> None:
        """Demand that what is asked for makes sense, and that the plan is for a GPU then.

        Raises:
            UsageError: it is for a CPU, or the watchdog's time is none.
        """
        asked = {
            "gpu_memory_utilization": self.memory_utilization,
            "capture_trace": self.capture_trace,
            "lazy_captures": self.lazy_captures or None,
            "watchdog_seconds": self.watchdog_seconds,
            "unmarked_captures": self.unmarked_captures or None,
        }
        seconds = self.watchdog_seconds
        if seconds is not None and not 0.0 <= seconds < math.inf:
            raise UsageError(
                "watchdog_seconds is no time", got=seconds, expected="seconds, or 0 for ever"
            )
        given = [name for name, value in asked.items() if value is not None]
        if given and not is_for_gpu(plan):
            raise UsageError(
                "this artifact runs on a CPU, and an option is for a GPU",
                got=", ".join(given),
                next="leave it out, or compile the checkpoint with --target cuda:sm_NN",
            )


@dataclass(frozen=True, slots=True)
class GpuSetup:
    """A device and what will be done on it.

    Attributes:
        artifact: what will run.
        device: where; whoever has the setup closes it, or the executor does.
        limits: what a step may hold.
        captured: what is captured.
        room: memory that may be taken.
        step_bytes: what steps of given limits take.
        options: what the user asks for.
        unpacked_bytes: what copies of packed weights take that PyTorch reads.
    """

    artifact: Artifact
    device: Device
    limits: SchedulerLimits
    captured: CapturePlan
    room: Room
    step_bytes: StepBytesOf
    options: GpuOptions
    unpacked_bytes: int

    def executor(self, report: ProgressFn = silent) -> Executor:
        """What runs the artifact there; its weights are loaded now, and it closes the device.

        Args:
            report: told how far loading is.

        Raises:
            MachineError: there is not enough memory.
        """
        from .executors.gpu.executor import CudaExecutor

        return CudaExecutor(
            self.artifact,
            self.device,
            self.limits,
            self.captured,
            lazy_captures=self.options.lazy_captures,
            watchdog_seconds=self.options.patience_s,
            unmarked_captures=self.options.unmarked_captures,
            report=report,
        )


def is_for_gpu(plan: Plan) -> bool:
    """Whether a plan runs on a GPU."""
    return Target.parse(plan.target).kind == "cuda"


def open_gpu(
    artifact: Artifact,
    limits: SchedulerLimits,
    options: GpuOptions,
    kv_cache_memory: int | None = None,
    open_device: Callable[[Plan], Device] | None = None,
) -> GpuSetup:
    """Measure this machine's GPU and decide what is captured.

    Args:
        artifact: what will run.
        limits: what a step may hold.
        options: what the user asks for.
        kv_cache_memory: bytes for KV, if they are given.
        open_device: gives the device that a plan runs on; this machine's GPU if None.

    Raises:
        ArtifactError: its kernels are for another GPU.
        MachineError: there is no GPU.
        UsageError: an option makes no sense.
    """
    # Nothing of this is imported where an engine runs on a CPU.
    from .capture_choice import choose_captures, launches_of
    from .capture_trace import read_trace
    from .executors.gpu.weights import unpacked_bytes
    from .preflight_gpu import gpu_room, gpu_step_bytes

    trace = None if options.capture_trace is None else read_trace(options.capture_trace)
    plan = artifact.plan
    device = (open_device or this_gpu)(plan)
    try:
        room = gpu_room(*device.memory(), options.memory_utilization, kv_cache_memory)
        launches = launches_of(artifact)
        captured = choose_captures(plan, launches, limits, trace)
        copies = 0
        if plan.layouts:
            copies = unpacked_bytes(plan, launches, parse_graph(artifact.graph_text()))
    except BaseException:
        device.close()
        raise
    step_bytes = gpu_step_bytes(plan, launches, trace)
    return GpuSetup(artifact, device, limits, captured, room, step_bytes, options, copies)


def this_gpu(plan: Plan) -> Device:
    """This machine's GPU, if the plan is for it.

    Raises:
        ArtifactError: the plan is for another one.
        MachineError: there is none.
    """
    from .executors.gpu.cubins import demand_device
    from .executors.gpu.driver import DriverDevice

    demand_device(plan)
    return DriverDevice()

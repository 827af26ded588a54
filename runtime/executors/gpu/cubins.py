"""Launches the compiled kernels of an artifact on an NVIDIA GPU, through the driver alone.

before:  cubins and what launching them takes, as the compiler wrote them
after:   functions on the device, launched on PyTorch's current stream

Nothing is compiled here: Triton is never imported. Every function of every kernel is found, and
given the shared memory that it takes, before the first launch, so no step waits for that. Memory
that programs share is theirs for good: it is zero before the first launch and each kernel leaves
its counters at zero, so two kernels have none in common, and a graph that was captured finds it
where it was. The driver is that of ``cuda-bindings``.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from graphopt.errors import (
    ArtifactError,
    DeviceLostError,
    GraphoptError,
    MachineError,
    UsageError,
)
from graphopt.ir.shape import evaluate
from graphopt.launch import ALIGNMENT, LIBRARY, MOST_PROGRAMS, Launch, LaunchKernel
from graphopt.plan import Plan
from graphopt.target import Target

BINDINGS = "cuda-bindings"
# From here on a cubin is for one architecture; before, for all later ones of the same generation.
_FIRST_EXACT_ARCH = 90
_MOST_SIZE = 2**31 - 1


class Order:
    """What a stream was given last, as far as it decides how the next kernel follows.

    A kernel that waits itself may begin while another such one still ends: that one lets it begin.
    Whatever else a stream is given, a copy, a graph, a step of PyTorch's, is over before that.
    """

    def __init__(self) -> None:
        self._stream: int | None = None

    def other(self) -> None:
        """The stream is given something else than a kernel that waits itself."""
        self._stream = None

    def kernel(self, stream: int, *, dependent: bool) -> bool:
        """Whether a kernel that a stream is given now may begin before what came before is over."""
        is_early = dependent and self._stream == stream
        self._stream = stream if dependent else None
        return is_early


class Memory(Protocol):
    """Gives memory of the device that stays where it is until it is given back."""

    @property
    def order(self) -> Order:
        """What the stream was given last; a new one where others give it things unseen."""

    def zeros(self, nbytes: int) -> int:
        """The address of ``nbytes`` zeros."""

    def current_stream(self) -> int:
        """The stream that launches go to."""


class TorchMemory:
    """Memory and streams of PyTorch, on its current device.

    Raises:
        MachineError: this PyTorch finds no GPU.
    """

    def __init__(self) -> None:
        import torch

        if not torch.cuda.is_available():
            raise MachineError(
                "PyTorch finds no GPU",
                got=f"torch {torch.__version__}",
                expected="a build for CUDA and an NVIDIA GPU",
            )
        self._torch = torch
        self._kept: list[Any] = []
        self.zeros(ALIGNMENT)  # makes PyTorch's context the thread's own

    @property
    def order(self) -> Order:
        """Nothing is known: PyTorch may have launched whatever it likes."""
        return Order()

    def zeros(self, nbytes: int) -> int:
        """The address of ``nbytes`` zeros, which live as long as this."""
        self._kept.append(self._torch.zeros(nbytes, dtype=self._torch.uint8, device="cuda"))
        return int(self._kept[-1].data_ptr())

    def current_stream(self) -> int:
        """PyTorch's current stream."""
        return int(self._torch.cuda.current_stream().cuda_stream)


def open_driver() -> Any:
    """The module ``cuda.bindings.driver``, with a driver and a device behind it.

    Raises:
        MachineError: one of the three is missing; it is named.
    """
    try:
        from cuda.bindings import driver
    except ImportError as error:
        raise _no_gpu(f"no {BINDINGS}: {error}", f"pip install {BINDINGS}") from error
    try:
        (status,) = driver.cuInit(0)
        if status != driver.CUresult.CUDA_SUCCESS:
            raise _no_gpu(f"the driver answers {_name_of(driver, status)}", _USE_CPU)
        count = checked(driver, "cuDeviceGetCount", driver.cuDeviceGetCount())
    except (RuntimeError, OSError) as error:  # what the bindings raise where libcuda is missing
        raise _no_gpu(f"no driver: {error}", _USE_CPU) from error
    if not count:
        raise _no_gpu("a driver without devices", _USE_CPU)
    return driver


_USE_CPU = "run it where there is one, or compile the checkpoint with --target cpu"


def _no_gpu(got: str, next: str) -> MachineError:
    return MachineError(
        "this artifact runs on an NVIDIA GPU, and there is none here",
        got=got,
        expected=f"an NVIDIA GPU, its driver, and {BINDINGS}",
        next=next,
    )


def demand_device(plan: Plan) -> None:
    """Demand that the device that a plan is compiled for is here; a CPU always is.

    Raises:
        MachineError: it is not; what is missing is named.
        ArtifactError: the GPU here is of another architecture.
    """
    target = Target.parse(plan.target)
    if target.kind == "cuda":
        check_arch(open_driver(), target.arch)


def device_arch(driver: Any, device: int = 0) -> str:
    """The architecture of a device, such as ``sm_90``."""
    names = driver.CUdevice_attribute
    handle = checked(driver, "cuDeviceGet", driver.cuDeviceGet(device))
    major, minor = (
        checked(driver, "cuDeviceGetAttribute", driver.cuDeviceGetAttribute(name, handle))
        for name in (
            names.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR,
            names.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
        )
    )
    return f"sm_{10 * major + minor}"


def check_arch(driver: Any, arch: str) -> None:
    """Demand that the device runs cubins for ``arch``.

    Raises:
        ArtifactError: it does not.
    """
    here = device_arch(driver)
    mine, theirs = (int(one.removeprefix("sm_")) for one in (here, arch))
    same_generation = mine // 10 == theirs // 10 and mine >= theirs
    if mine == theirs or (same_generation and theirs < _FIRST_EXACT_ARCH):
        return
    raise ArtifactError(
        "the artifact has no kernels for this GPU",
        got=f"kernels for {arch}, and a GPU of {here}",
        next=f"compile the checkpoint again with --target cuda:{here}",
    )


@dataclass(frozen=True, slots=True)
class _Function:
    """A function on the device, and what launching it takes."""

    handle: Any
    launch: Launch


@dataclass(slots=True)
class _Kernel:
    """A kernel on the device: its functions by variant, its arguments' places, its workspace."""

    kernel: LaunchKernel
    functions: Mapping[int, tuple[_Function, ...]]
    values: Sequence[Any]
    address: int
    keep: Any
    workspace: int = 0
    workspace_bytes: int = 0


class KernelSet:
    """Kernels on one device, ready to be launched.

    Args:
        kernels: by name.
        read: gives a cubin, by the kernel's name and the file's.
        driver: such as :func:`open_driver` gives.
        memory: gives workspaces.

    Raises:
        ArtifactError: a cubin is not what its kernel says.
        MachineError: the device refuses one.
    """

    def __init__(
        self,
        kernels: Mapping[str, LaunchKernel],
        read: Callable[[str, str], bytes],
        driver: Any,
        memory: Memory,
    ) -> None:
        self._driver = driver
        self._memory = memory
        self._modules: list[Any] = []
        self._scratch: dict[str, tuple[int, int]] = {}
        try:
            self._kernels = {name: self._load(kernel, read) for name, kernel in kernels.items()}
        except BaseException:
            self.close()
            raise

    def workspace_bytes(self, sizes: Mapping[str, int]) -> int:
        """Bytes that all workspaces take if no step is larger than ``sizes``."""
        return sum(one.kernel.workspace_bytes(sizes) for one in self._kernels.values())

    def reserve(self, sizes: Mapping[str, int]) -> None:
        """Take the workspaces, and memory for descriptors, of steps up to ``sizes``."""
        for name, one in self._kernels.items():
            need = one.kernel.workspace_bytes(sizes)
            if need > one.workspace_bytes:
                one.workspace, one.workspace_bytes = self._memory.zeros(need), need
            for place, variant in enumerate(one.kernel.variants):
                inside = variant.within(sizes)
                for function in one.functions[place]:
                    self._descriptors(name, function.launch, function.launch.counts(inside))

    def launch(
        self,
        name: str,
        pointers: Sequence[int],
        sizes: Mapping[str, int],
        stream: int | None = None,
    ) -> None:
        """Launch a kernel; it runs after what the stream was given before.

        Args:
            name: the kernel's.
            pointers: addresses on the device, in the kernel's order, without the workspace.
            sizes: of the step.
            stream: where to; PyTorch's current one if None.

        Raises:
            UsageError: there is no such kernel, PyTorch computes steps of these sizes, or an
                argument does not fit it.
            MachineError: the driver refuses the launch.
        """
        one = self._kernels.get(name)
        if one is None:
            raise UsageError("no such kernel", got=name, expected=", ".join(self._kernels))
        variant = one.kernel.variant(sizes)
        if variant.library:
            raise UsageError(
                f"{LIBRARY} computes steps of these sizes, and nothing is launched for them",
                where=f"{name}, {variant.bucket}",
                got=", ".join(f"{size}={count}" for size, count in sorted(sizes.items())),
                next=f"run the step's nodes through {LIBRARY}, as steps of backend torch are run",
            )
        given = self._arguments(one, pointers, sizes)
        place = one.kernel.variants.index(variant)
        stream = self._memory.current_stream() if stream is None else stream
        where, order = self._driver.CUstream(stream), self._memory.order
        for function in one.functions[place]:
            launch = function.launch
            counts = launch.counts(sizes)
            if not all(counts):
                continue  # a step without rows; the driver takes no empty grid
            if any(count > most for count, most in zip(counts, MOST_PROGRAMS, strict=True)):
                raise UsageError("a step has too many programs", where=name, got=counts)
            given[-2] = self._descriptors(name, launch, counts)
            for value, number in zip(one.values, given, strict=True):
                value.value = number
            is_early = order.kernel(stream, dependent=launch.dependent)
            begin = self._begin_early if is_early else self._begin
            begin(function, counts, where, one.address)

    def _begin(
        self, function: _Function, counts: Sequence[int], stream: Any, arguments: int
    ) -> None:
        """Launch a function after what its stream was given before."""
        launch = function.launch
        shape = (*counts, launch.threads, 1, 1, launch.shared_bytes)
        answer = self._driver.cuLaunchKernel(function.handle, *shape, stream, arguments, 0)
        checked(self._driver, f"cuLaunchKernel of {launch.symbol}", answer)

    def _begin_early(
        self, function: _Function, counts: Sequence[int], stream: Any, arguments: int
    ) -> None:
        """Launch a function that itself waits for what its stream was given before.

        A stream that is captured makes an edge of the graph of it.
        """
        driver, launch = self._driver, function.launch
        attribute = driver.CUlaunchAttribute()
        names = driver.CUlaunchAttributeID
        attribute.id = names.CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION
        attribute.value.programmaticStreamSerializationAllowed = 1
        config = driver.CUlaunchConfig()
        config.gridDimX, config.gridDimY, config.gridDimZ = counts
        config.blockDimX, config.blockDimY, config.blockDimZ = launch.threads, 1, 1
        config.sharedMemBytes, config.hStream = launch.shared_bytes, stream
        config.attrs, config.numAttrs = [attribute], 1
        answer = driver.cuLaunchKernelEx(config, function.handle, arguments, 0)
        checked(driver, f"cuLaunchKernelEx of {launch.symbol}", answer)

    def workspaces(self) -> Mapping[str, int]:
        """Where what each kernel keeps lies now: its workspace, and its memory for descriptors."""
        shared = {f"the workspace of {n}": one.workspace for n, one in self._kernels.items()}
        rest = {f"descriptors of {name}": place for name, (place, _) in self._scratch.items()}
        return {**{name: place for name, place in shared.items() if place}, **rest}

    def close(self) -> None:
        """Unload everything. May be called twice."""
        modules, self._modules = self._modules, []
        self._kernels = {}
        for module in modules:
            self._driver.cuModuleUnload(module)

    def _arguments(
        self, one: _Kernel, pointers: Sequence[int], sizes: Mapping[str, int]
    ) -> list[int]:
        """What the function is given: pointers, sizes, and Triton's two pointers."""
        kernel = one.kernel
        shared = [one.workspace] if None in kernel.pointers else []
        given = [*pointers, *shared]
        if len(given) != len(kernel.pointers):
            raise UsageError(
                "a kernel takes another number of pointers",
                where=kernel.name,
                got=len(pointers),
                expected=len(kernel.pointers) - len(shared),
            )
        if crooked := [place for place, address in enumerate(given) if address % ALIGNMENT]:
            raise UsageError(
                "a pointer is not aligned",
                where=f"{kernel.name}, pointer {crooked[0]}",
                got=hex(given[crooked[0]]),
                expected=f"a multiple of {ALIGNMENT}",
            )
        need = evaluate(kernel.workspace, sizes)
        if need > one.workspace_bytes:
            raise UsageError(
                "a step needs a larger workspace than was reserved",
                where=kernel.name,
                got=f"{one.workspace_bytes} bytes",
                expected=f"{need} bytes",
                next="reserve it for the largest step first",
            )
        counts = [sizes[name] for name in kernel.sizes]
        if any(not 0 <= count <= _MOST_SIZE for count in counts):
            raise UsageError("a size does not fit 32 bits", where=kernel.name, got=counts)
        return [*given, *counts, 0, 0]

    def _descriptors(self, name: str, launch: Launch, counts: Sequence[int]) -> int:
        """The address of what programs need for descriptors; 0 if they need nothing."""
        need = launch.global_bytes
        for count in counts:
            need *= count
        if not need:
            return 0
        address, nbytes = self._scratch.get(name, (0, 0))
        if need > nbytes:
            start = self._memory.zeros(need + launch.global_alignment)
            address = -(-start // launch.global_alignment) * launch.global_alignment
            self._scratch[name] = (address, need)
        return address

    def _load(self, kernel: LaunchKernel, read: Callable[[str, str], bytes]) -> _Kernel:
        modules: dict[str, Any] = {}
        functions: dict[int, tuple[_Function, ...]] = {}
        for place, variant in enumerate(kernel.variants):
            found = []
            for launch in variant.launches:
                if launch.file not in modules:
                    modules[launch.file] = self._module(kernel, launch, read)
                found.append(_Function(self._function(kernel, launch, modules), launch))
            functions[place] = tuple(found)
        values: list[Any] = [ctypes.c_void_p() for _ in kernel.pointers]
        values += [ctypes.c_int32() for _ in kernel.sizes]
        values += [ctypes.c_void_p(), ctypes.c_void_p()]
        places = (ctypes.c_void_p * len(values))(*(ctypes.addressof(one) for one in values))
        return _Kernel(kernel, functions, values, ctypes.addressof(places), places)

    def _module(
        self, kernel: LaunchKernel, launch: Launch, read: Callable[[str, str], bytes]
    ) -> Any:
        code = read(kernel.name, launch.file)
        answer = self._driver.cuModuleLoadData(code)
        module = checked(self._driver, f"loading {kernel.name}/{launch.file}", answer)
        self._modules.append(module)
        return module

    def _function(self, kernel: LaunchKernel, launch: Launch, modules: Mapping[str, Any]) -> Any:
        answer = self._driver.cuModuleGetFunction(modules[launch.file], launch.symbol.encode())
        if answer[0] != self._driver.CUresult.CUDA_SUCCESS:
            raise ArtifactError(
                "a cubin lacks its function",
                where=f"{kernel.name}/{launch.file}",
                got=_name_of(self._driver, answer[0]),
                expected=launch.symbol,
            )
        handle = answer[1]
        try:  # now, and not at its first launch, which may be one of a capture
            answer = self._driver.cuFuncLoad(handle)
        except (AttributeError, RuntimeError):
            answer = (self._driver.CUresult.CUDA_SUCCESS,)  # drivers before 12.4 have no such call
        checked(self._driver, f"loading {launch.symbol}", answer)
        if launch.shared_bytes:
            most = self._driver.CUfunction_attribute
            answer = self._driver.cuFuncSetAttribute(
                handle,
                most.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
                launch.shared_bytes,
            )
            checked(self._driver, f"{launch.shared_bytes} shared bytes", answer)
        return handle


# After these every call of the process is answered with the same.
_BROKEN = frozenset(
    (
        "ASSERT",
        "ECC_UNCORRECTABLE",
        "HARDWARE_STACK_ERROR",
        "ILLEGAL_ADDRESS",
        "ILLEGAL_INSTRUCTION",
        "INVALID_ADDRESS_SPACE",
        "INVALID_PC",
        "LAUNCH_FAILED",
        "LAUNCH_TIMEOUT",
        "MISALIGNED_ADDRESS",
        "UNKNOWN",
    )
)


def checked(driver: Any, what: str, answer: Sequence[Any]) -> Any:
    """The result of a call.

    Raises:
        DeviceLostError: a kernel broke, and nothing more can be done in this process.
        MachineError: the driver answers with another error.
    """
    status, *rest = answer
    if status != driver.CUresult.CUDA_SUCCESS:
        got = _name_of(driver, status)
        if getattr(status, "name", "").removeprefix("CUDA_ERROR_") in _BROKEN:
            raise DeviceLostError(f"the GPU broke off at or before {what}", got=got)
        raise MachineError(f"the GPU's driver refuses {what}", got=got)
    return rest[0] if rest else None


def _name_of(driver: Any, status: Any) -> str:
    try:
        _, text = driver.cuGetErrorString(status)
        return f"{status}: {text.decode()}"
    except (GraphoptError, AttributeError, RuntimeError, TypeError, ValueError):
        return str(status)

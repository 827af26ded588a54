"""Wires the layers together for tuning: an artifact's kernels are timed on the GPU that is here.

    graphopt.tune_api.tune_artifact("model.gopt")

Each kernel is made again from the artifact's graph, its candidates are compiled, those that cannot
be fast are left out, and the others run on random numbers in a step of typical sizes for each
bucket. Where PyTorch's libraries can compute the same, they take turns with the fastest. What was
found goes into a table that the compiler reads the next time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from graphopt.artifact import Artifact, read_artifact
from graphopt.errors import ArtifactError, UsageError
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph, Value
from graphopt.ir.parser import parse_graph
from graphopt.ir.shape import evaluate
from graphopt.ir.types import StateType, TensorType
from graphopt.launch import LIBRARY, LaunchKernel
from graphopt.plan import TRITON, Plan
from graphopt.progress import ProgressFn, silent
from graphopt.region import Region, base_of
from graphopt.target import Target
from graphopt.weight_layout import stored_as

if TYPE_CHECKING:
    from graphopt.codegen.triton.autotune import Choice, Key
    from graphopt.codegen.triton.buckets import Bucket
    from graphopt.codegen.triton.kernel import TritonKernel

# A step of typical sizes: tokens where a bucket has no bound, and tokens of context.
TOKENS, CONTEXT = 8192, 4096
# A bucket for at most so many tokens is that of decoding, one token of each sequence.
DECODING = 64
Work = Callable[[], None]


class Device(Protocol):
    """A GPU; see ``runtime.executors.gpu.tuning``."""

    driver: Any
    memory: Any

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def arch(self) -> str: ...  # noqa: D102

    def put(self, array: npt.NDArray[np.generic]) -> int: ...  # noqa: D102

    def noise(self, dtype: DType, count: int) -> int: ...  # noqa: D102

    def clear(self) -> None: ...  # noqa: D102

    def micros(self, works: Sequence[Work]) -> Sequence[tuple[float, float]]: ...  # noqa: D102

    def library(  # noqa: D102
        self, graph: Graph, region: Region, addresses: Sequence[int], sizes: Mapping[str, int]
    ) -> Work | None: ...


@dataclass(frozen=True, slots=True)
class Timing:
    """What tuning found for one bucket of a kernel.

    Attributes:
        kernel: its name.
        bucket: the sizes that it is for.
        sizes: of the step that was timed.
        candidates: how many were timed.
        micros: microseconds of the fastest; None if none was timed.
        pick_micros: of the model's pick.
        library_micros: of PyTorch for the same; None where it cannot take the kernel's place.
        least_micros: what the GPU's rates allow.
        chosen: the fastest, in words; or why nothing was timed.
    """

    kernel: str
    bucket: str
    sizes: Mapping[str, int]
    candidates: int
    micros: float | None
    pick_micros: float | None
    library_micros: float | None
    least_micros: float | None
    chosen: str


@dataclass(frozen=True, slots=True)
class Tuning:
    """What tuning an artifact found, and where it is written."""

    gpu: str
    file: Path
    timings: tuple[Timing, ...]


def tune_artifact(
    path: str | Path,
    *,
    folder: str | Path | None = None,
    only: str = "",
    device: Device | None = None,
    progress: ProgressFn = silent,
) -> Tuning:
    """Time the candidates of an artifact's kernels on the GPU that is here, and keep the fastest.

    Args:
        path: the artifact.
        folder: where the table is; None for the compiler's own.
        only: kernels whose name begins so; all if empty.
        device: the GPU; None for PyTorch's current one.
        progress: told how far the work is.

    Raises:
        UsageError: the artifact is not for a GPU, or has no such kernel.
        MachineError: there is no GPU, or something is missing to use it.
        ArtifactError: the artifact is for another GPU, or of another version.
    """
    from graphopt.codegen.triton.autotune import TUNED, read_tuned, write_tuned

    artifact = read_artifact(path, check_digests=False)
    target = Target.parse(artifact.plan.target)
    if target.kind != "cuda":
        raise UsageError(
            "only kernels for a GPU are tuned",
            where=str(path),
            got=str(target),
            next="compile the checkpoint with --target cuda:sm_NN",
        )
    device = device or _device()
    if device.arch != target.arch:
        raise ArtifactError(
            "the artifact is for another GPU", got=target.arch, expected=device.arch
        )
    place = Path(folder) if folder is not None else TUNED
    session = _Session(artifact, device, only, progress)
    found: dict[Key, Choice] = {}
    timings = []
    for timing, key, choice in session.run():
        timings.append(timing)
        if choice is not None:
            found[key] = choice
    file = write_tuned(read_tuned(device.name, place).updated(found), place)
    return Tuning(device.name, file, tuple(timings))


def _device() -> Device:
    from graphopt.runtime.executors.gpu.tuning import CudaDevice

    return CudaDevice()


def typical_sizes(plan: Plan, below: Mapping[str, int]) -> dict[str, int]:
    """A step in a bucket: as many tokens as it takes, with a long context."""
    tokens = min(below.get("T", TOKENS), max(TOKENS, DECODING))
    sequences = tokens if tokens <= DECODING else max(1, tokens // 1024)
    sequences = min(sequences, below.get("S", sequences))
    context = min(CONTEXT, plan.limits.max_model_len)
    blocks = min(-(-context // plan.block_size), below.get("P", 1 << 30))
    rows = min(below.get("R", plan.limits.max_rows), plan.limits.max_rows, tokens)
    return {"T": tokens, "S": sequences, "R": rows, "P": blocks}


def step_inputs(plan: Plan, sizes: Mapping[str, int]) -> dict[str, npt.NDArray[np.int64]]:
    """The inputs of a step: sequences of equal shares of tokens, each with a full context."""
    tokens, sequences, blocks = sizes["T"], sizes["S"], sizes["P"]
    random = np.random.default_rng(0)
    starts = np.arange(sequences + 1) * tokens // sequences
    lengths = np.full(sequences, blocks * plan.block_size)
    tables = random.permutation(sequences * blocks).reshape(sequences, blocks)
    owners = np.repeat(np.arange(sequences), np.diff(starts))
    positions = lengths[owners] - starts[owners + 1] + np.arange(tokens)
    positions = np.maximum(positions, 0)
    slots = tables[owners, positions // plan.block_size] * plan.block_size
    return {
        "token_ids": random.integers(0, plan.limits.vocab_size, tokens),
        "positions": positions,
        "rows": np.arange(sizes["R"]) * tokens // max(1, sizes["R"]),
        "slots": slots + positions % plan.block_size,
        "starts": starts,
        "lengths": lengths,
        "tables": tables,
        "reaches": lengths[owners],
    }


class _Session:
    """An artifact's kernels on a device."""

    def __init__(self, artifact: Artifact, device: Device, only: str, progress: ProgressFn) -> None:
        from graphopt.codegen.triton.backend import TritonBackend
        from graphopt.passes.fusion_cost import cost_model
        from graphopt.passes.fusion_regions import fuse_regions
        from graphopt.passes.manager import PassContext

        self._plan = artifact.plan
        self._device = device
        self._progress = progress
        self._graph = parse_graph(artifact.graph_text())
        disabled = frozenset(artifact.manifest["factors"].get("disabled_passes", "").split(", "))
        target = Target.parse(artifact.plan.target)
        regions = fuse_regions(self._graph, cost_model(target), PassContext(), disabled)
        arch = int(target.arch.removeprefix("sm_"))
        self._backend = TritonBackend(self._graph, regions, artifact.plan.block_size, arch)
        nodes = {region.nodes: region for region in regions}
        self._regions: dict[str, Region] = {}
        for step in artifact.plan.steps():
            if step.backend == TRITON and step.kernel.startswith(only):
                if (region := nodes.get(step.nodes)) is None:
                    raise _other_version(step.name)
                self._regions.setdefault(step.kernel, region)
        if not self._regions:
            raise UsageError("the artifact has no such kernel", got=only)

    def run(self) -> Iterator[tuple[Timing, Key, Choice | None]]:
        """Each bucket of each kernel, with what was fastest."""
        from graphopt.codegen.triton.autotune import key_of
        from graphopt.codegen.triton.buckets import buckets_of, reachable
        from graphopt.codegen.triton.kernel import TritonKernel

        limits, block_size = self._plan.limits, self._plan.block_size
        most = {"R": limits.max_rows, "P": -(-limits.max_model_len // block_size)}
        for number, (name, region) in enumerate(self._regions.items()):
            self._progress("timing kernels", number, len(self._regions))
            kernel = self._backend.kernel(region)
            if not isinstance(kernel, TritonKernel) or kernel.name != name:
                raise _other_version(name)
            for bucket in reachable(buckets_of(kernel.variants), most):
                try:
                    timing, choice = self._tune(kernel, region, bucket)
                finally:
                    self._device.clear()
                yield timing, key_of(kernel, self._graph, region, bucket), choice
        self._progress("timing kernels", len(self._regions), len(self._regions))

    def _tune(
        self, kernel: TritonKernel, region: Region, bucket: Bucket
    ) -> tuple[Timing, Choice | None]:
        from graphopt.codegen.triton.ahead import Request, build_all
        from graphopt.codegen.triton.autotune import candidates_of, choice_of, worth_timing
        from graphopt.codegen.triton.choosing import compiled_kernel
        from graphopt.codegen.triton.roofline import gpu_of_name, work_of

        sizes = typical_sizes(self._plan, bucket.below)
        pointers = self._operands(region, sizes)
        if isinstance(pointers, str):
            return _untimed(kernel, bucket, sizes, pointers), None
        arch = self._device.arch
        candidates = candidates_of(bucket)
        requests = [Request(kernel, one) for one in candidates]
        outcomes = build_all(requests, int(arch.removeprefix("sm_")), progress=self._progress)
        built = [one if isinstance(one, tuple) else None for one in outcomes]

        def timed(place: int, *others: Work) -> Sequence[tuple[float, float]]:
            launched, codes = compiled_kernel(kernel, arch, candidates[place], built[place] or ())
            return self._micros(launched, codes, pointers, sizes, *others)

        micros = {place: timed(place)[0][0] for place in worth_timing(candidates, built)}
        if not micros:
            return _untimed(kernel, bucket, sizes, "no candidate runs on this GPU"), None
        best = min(micros, key=lambda place: (micros[place], place))
        library_micros = None
        if (library := self._library(region, pointers, sizes)) is not None:
            (kernel_micros, _), took = timed(best, library)
            # PyTorch is not captured, so that the device waits where its host takes longer.
            micros[best], library_micros = kernel_micros, round(max(took), 2)
        gpu = gpu_of_name(self._device.name)
        known = {**sizes, "context": sizes["P"] * self._plan.block_size}
        least = work_of(self._graph, region).seconds(gpu, known) * 1e6 if gpu else None
        chosen = candidates[best]
        choice = choice_of(kernel, chosen, sizes, micros[best], least or 0.0, library_micros)
        words = [f"{name}={value}" for name, value in chosen.constants.items()]
        words += [f"{chosen.num_warps} warps", f"{chosen.num_stages} stages"]
        timing = Timing(
            kernel.name,
            bucket.name,
            sizes,
            len(micros),
            round(micros[best], 2),
            round(micros[0], 2) if 0 in micros else None,
            library_micros,
            None if least is None else round(least, 4),
            LIBRARY if choice.is_library else ", ".join(words),
        )
        return timing, choice

    def _library(
        self, region: Region, pointers: list[int], sizes: Mapping[str, int]
    ) -> Work | None:
        from graphopt.codegen.triton.autotune import has_library

        if not has_library(region):
            return None
        return self._device.library(self._graph, region, pointers, sizes)

    def _micros(
        self,
        kernel: LaunchKernel,
        codes: Mapping[str, bytes],
        pointers: list[int],
        sizes: Mapping[str, int],
        *others: Work,
    ) -> Sequence[tuple[float, float]]:
        """How long a kernel takes, and others in turns with it, on the device and on the host."""
        from graphopt.runtime.executors.gpu.cubins import KernelSet

        device = self._device
        kernels = KernelSet(
            {kernel.name: kernel}, lambda _, file: codes[file], device.driver, device.memory
        )
        try:
            kernels.reserve(sizes)
            return device.micros([lambda: kernels.launch(kernel.name, pointers, sizes), *others])
        finally:
            kernels.close()

    def _operands(self, region: Region, sizes: Mapping[str, int]) -> list[int] | str:
        """Addresses of what a region reads and writes; or why it cannot be run alone."""
        inputs = step_inputs(self._plan, sizes)
        found: list[int] = []
        values = [value for value in region.outputs if not isinstance(value.type, StateType)]
        for value in (*region.inputs, *values):
            if isinstance(value.type, StateType):
                found += self._state(region, value, sizes)
                continue
            dtype, root = _dtype(value), base_of(self._graph, value)
            shape = value.type.shape if isinstance(value.type, TensorType) else ()
            if value.is_weight and (layout := self._plan.layouts.get(value.name)) is not None:
                dtype, shape = stored_as(layout, dtype)  # rows and columns past the end, too
            count = math.prod(evaluate(dim, sizes) for dim in shape)
            if root.name in inputs and root in self._graph.inputs:
                array = np.ascontiguousarray(inputs[root.name].astype(_NUMPY[dtype]))
                found.append(self._device.put(array))
            elif dtype in _NUMPY and value not in values:
                experts = _experts(self._graph, region)
                if not experts:
                    return f"nothing says which integers {value} may hold"
                ids = np.random.default_rng(0).integers(0, experts, count)
                found.append(self._device.put(ids.astype(_NUMPY[dtype])))
            else:
                found.append(self._device.noise(dtype, count))
        return found

    def _state(self, region: Region, value: Value, sizes: Mapping[str, int]) -> list[int]:
        """Keys and values of the region's layer, as large as the step's blocks."""
        from graphopt.ir.ops_spec import int_of

        nodes = (self._graph.nodes[place] for place in region.nodes)
        layer = next(int_of(node.attrs, "layer") for node in nodes if "layer" in node.attrs)
        kept = value.type.layers[layer] if isinstance(value.type, StateType) else None
        if kept is None:
            return []
        slots = sizes["S"] * sizes["P"] * self._plan.block_size
        return [
            self._device.noise(kept.dtype, max(8, slots * kept.heads * size))
            for size in (kept.key_size, kept.value_size)
        ]


def _untimed(kernel: TritonKernel, bucket: Bucket, sizes: Mapping[str, int], why: str) -> Timing:
    return Timing(kernel.name, bucket.name, sizes, 0, None, None, None, None, why)


_NUMPY: Mapping[DType, type[np.generic]] = {DType.I64: np.int64, DType.I32: np.int32}


def _dtype(value: Value) -> DType:
    return value.type.dtype if isinstance(value.type, TensorType) else DType.U8


def _experts(graph: Graph, region: Region) -> int:
    """How many experts a region's weights hold; 0 if it has none."""
    for node in (graph.nodes[place] for place in region.nodes):
        if "experts" in node.op:
            for value in node.inputs:
                if value.is_weight and isinstance(value.type, TensorType):
                    return evaluate(value.type.shape[0], {})
    return 0


def _other_version(name: str) -> ArtifactError:
    return ArtifactError(
        "the artifact's kernels are those of another version",
        got=name,
        next="compile the checkpoint again with this version",
    )

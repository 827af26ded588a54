"""What was measured to be the fastest way to run a kernel, and what is worth measuring.

``codegen/tuned/GPU.json`` says, by kernel family, types and shapes, and bucket of sizes, which
function ran with which constants and options, how long it took, and how long it would have to take
at least. Of regions around a product it also says how long PyTorch took for the same, with its
libraries: where that is clearly less, the plan calls PyTorch. What is measured is the maker's
alternatives, each also with more or fewer warps and stages, as far as the resource report lets them
run well.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from graphopt.errors import ArtifactError, MachineError
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph, Value
from graphopt.ir.ops_spec import int_of
from graphopt.ir.types import StateType, TensorType
from graphopt.launch import LIBRARY
from graphopt.region import Region

from .buckets import Bucket
from .kernel import TritonKernel, Variant
from .roofline import GPUS, key_of_name
from .worker import Built

TUNED = Path(__file__).parent.parent / "tuned"
TUNED_SCHEMA = 2
# Candidates of one bucket that are timed at most, and the fewest and most warps and stages.
MOST_CANDIDATES = 16
WARPS, STAGES = (1, 16), (1, 6)
# Families of regions that a library may compute, if they have no state.
LIBRARY_FAMILIES = ("linear", "matmul", "experts")
# A library is called where it takes at most this part of the kernel's time: two measurements of the
# same differ by some percent, and what PyTorch computes is not captured.
WORTH = 0.95


@dataclass(frozen=True, slots=True)
class Key:
    """What a measurement holds for.

    Attributes:
        family: what the kernel computes, its name without the hash.
        shape: types and shapes of operands and results.
        bucket: the sizes, such as ``T<=64``.
    """

    family: str
    shape: str
    bucket: str


@dataclass(frozen=True, slots=True)
class Choice:
    """A way to run a kernel that was measured.

    Attributes:
        function: which of its functions, without the kernel's name.
        constants: those that it was compiled with.
        warps: of a program.
        stages: how deep loads are pipelined.
        sizes: of the step that was timed.
        micros: microseconds that it took.
        least_micros: what the machine's rates allow.
        library_micros: that PyTorch took, in turns with it; None where it was not asked.
    """

    function: str
    constants: Mapping[str, int]
    warps: int
    stages: int
    sizes: Mapping[str, int]
    micros: float
    least_micros: float
    library_micros: float | None = None

    @property
    def is_library(self) -> bool:
        """Whether PyTorch was so much faster that it is called."""
        return self.library_micros is not None and self.library_micros <= WORTH * self.micros

    def origin(self, gpu: str) -> str:
        """Who chose it, in words."""
        if not self.is_library:
            return f"measured on {gpu}"
        return f"measured on {gpu}: {LIBRARY} {self.library_micros} µs, the kernel {self.micros} µs"

    def of(self, kernel: TritonKernel, bucket: Bucket) -> Variant | None:
        """The variant that it chose, if ``bucket`` still has it among its candidates."""
        for one in bucket.candidates:
            if _short(kernel, one) == self.function and dict(one.constants) == self.constants:
                return replace(one, num_warps=self.warps, num_stages=self.stages)
        return None


def choice_of(
    kernel: TritonKernel,
    variant: Variant,
    sizes: Mapping[str, int],
    micros: float,
    least_micros: float,
    library_micros: float | None = None,
) -> Choice:
    """A measurement of ``variant``, and of a library for the same."""
    return Choice(
        _short(kernel, variant),
        dict(variant.constants),
        variant.num_warps,
        variant.num_stages,
        dict(sizes),
        round(micros, 2),
        round(least_micros, 4),
        None if library_micros is None else round(library_micros, 2),
    )


def has_library(region: Region) -> bool:
    """Whether a library may compute a region: it can read no state, and no weights in few bits.

    PyTorch would need those unpacked, a second time in memory.
    """
    types = [value.type for value in (*region.inputs, *region.outputs)]
    reads_state = any(isinstance(type_, StateType) for type_ in types)
    is_packed = any(
        isinstance(value.type, TensorType) and value.type.dtype is DType.I8
        for value in region.inputs
        if value.is_weight
    )
    return region.family in LIBRARY_FAMILIES and not (reads_state or is_packed)


def _short(kernel: TritonKernel, variant: Variant) -> str:
    return variant.function.removeprefix(kernel.name)


@dataclass(frozen=True)
class Tuned:
    """The measurements on one GPU.

    Attributes:
        gpu: its name.
        choices: what was fastest.
    """

    gpu: str
    choices: Mapping[Key, Choice]

    def find(self, key: Key) -> Choice | None:
        """The measurement for ``key``, if there is one."""
        return self.choices.get(key)

    def updated(self, found: Mapping[Key, Choice]) -> Tuned:
        """These measurements, with newer ones in place of older."""
        return Tuned(self.gpu, {**self.choices, **found})

    def to_json(self) -> dict[str, Any]:
        """Plain data for a file, in one order."""
        rows = sorted(self.choices.items(), key=lambda row: (row[0].family, repr(row[0])))
        return {
            "schema": TUNED_SCHEMA,
            "gpu": self.gpu,
            "choices": [{**_fields(key), **_fields(choice)} for key, choice in rows],
        }

    @classmethod
    def from_json(cls, data: Any) -> Tuned:
        """The measurements that ``to_json`` wrote.

        Raises:
            ArtifactError: the data holds none of this version.
        """
        try:
            if data["schema"] != TUNED_SCHEMA:
                raise ArtifactError(
                    "the measurements are of another version",
                    got=data["schema"],
                    expected=TUNED_SCHEMA,
                )
            names = Key.__slots__
            choices = {
                Key(*(row[name] for name in names)): Choice(
                    **{name: row[name] for name in Choice.__slots__}
                )
                for row in data["choices"]
            }
            return cls(data["gpu"], choices)
        except (KeyError, TypeError, AttributeError) as error:
            raise ArtifactError("the measurements are not readable", got=repr(error)) from error


def _fields(one: Key | Choice) -> dict[str, Any]:
    return {name: getattr(one, name) for name in one.__slots__}


def key_of(kernel: TritonKernel, graph: Graph, region: Region, bucket: Bucket) -> Key:
    """What a measurement of a region's kernel holds for."""
    return Key(kernel.name.rpartition("_")[0], shape_of(graph, region), bucket.name)


def shape_of(graph: Graph, region: Region) -> str:
    """Types and shapes of what a region reads and makes; of a state, those of its layer."""
    layers = [
        int_of(node.attrs, "layer")
        for node in (graph.nodes[place] for place in region.nodes)
        if "layer" in node.attrs
    ]

    def text(value: Value) -> str:
        if not isinstance(value.type, StateType):
            return str(value.type)
        layer = value.type.layers[layers[0]] if layers else value.type.layers[0]
        size = f"{layer.heads}, {layer.key_size}, {layer.value_size}"
        return f"{value.type.kind}({layer.dtype.value}[{size}], window {layer.window})"

    made = (value for value in region.outputs if not isinstance(value.type, StateType))
    return f"{', '.join(map(text, region.inputs))} -> {', '.join(map(text, made))}"


def read_tuned(gpu: str, folder: Path = TUNED) -> Tuned:
    """The measurements on a GPU; none if there is no file of them.

    Raises:
        ArtifactError: the file holds something else.
    """
    file = folder / f"{key_of_name(gpu)}.json"
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return Tuned(gpu, {})
    except (OSError, ValueError) as error:
        raise ArtifactError(
            "the measurements are not readable", where=str(file), got=repr(error)
        ) from error
    return Tuned.from_json(data)


def tuned_for(arch: int, folder: Path = TUNED) -> Tuned:
    """The measurements on the first known GPU of an architecture that has any."""
    kin = [one.name for one in GPUS if one.arch == arch]
    found = [read_tuned(name, folder) for name in kin]
    return next((one for one in found if one.choices), Tuned(kin[0] if kin else "", {}))


def write_tuned(tuned: Tuned, folder: Path = TUNED) -> Path:
    """Write measurements; the file appears whole or not at all.

    Raises:
        MachineError: it cannot be written there.
    """
    file = folder / f"{key_of_name(tuned.gpu)}.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=folder, suffix=".tmp")
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            json.dump(tuned.to_json(), stream, indent=1)
            stream.write("\n")
        os.chmod(temporary, 0o644)
        os.replace(temporary, file)
    except OSError as error:
        raise MachineError(
            "the measurements cannot be written",
            where=str(file),
            got=error.strerror or error,
            next="name another folder with -o",
        ) from error
    return file


def candidates_of(bucket: Bucket) -> tuple[Variant, ...]:
    """What is worth compiling for a bucket: the alternatives, then their neighbours."""
    found: dict[str, Variant] = {repr(one): one for one in bucket.candidates}
    for one in bucket.candidates:
        for warps, stages in _neighbours(one):
            near = replace(one, num_warps=warps, num_stages=stages)
            found.setdefault(repr(near), near)
    return tuple(found.values())


def _neighbours(one: Variant) -> Iterable[tuple[int, int]]:
    for warps in (one.num_warps, one.num_warps * 2, one.num_warps // 2):
        for stages in (one.num_stages, one.num_stages + 1, one.num_stages - 1):
            if WARPS[0] <= warps <= WARPS[1] and STAGES[0] <= stages <= STAGES[1]:
                yield warps, stages


def worth_timing(
    candidates: Sequence[Variant], built: Sequence[tuple[Built, ...] | None]
) -> list[int]:
    """Places of the candidates that can be fast: they fit, and have no problem that others lack.

    Two of the same cubins are one candidate: options that change nothing are not timed twice. The
    model's pick comes first if it runs at all.
    """
    clean: dict[tuple[bytes, ...], int] = {}
    flawed: dict[tuple[bytes, ...], int] = {}
    for place, made in enumerate(built):
        if made is None or not all(one.programs for one in made):
            continue
        flaws = any(one.problems for one in made)
        (flawed if flaws else clean).setdefault(tuple(one.code for one in made), place)
    return list((clean or flawed).values())[:MOST_CANDIDATES]

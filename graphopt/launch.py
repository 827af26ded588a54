"""How a GPU's kernels are launched: what the compiler writes beside cubins and the runtime reads.

::

    kernels/NAME/kernel.py               the text
    kernels/NAME/sm_90/launch.json       arguments, and for each variant what launching it takes
    kernels/NAME/sm_90/0.cubin …         what the variants that a plan can call launch

A kernel takes its pointers, then its sizes as 32-bit integers, then two pointers of Triton's own:
memory for descriptors, ``global_bytes`` for each program, and one that nothing uses. Of the
variants the first that fits a step's sizes is run: its launches, in order; where a library was
measured to be faster there are none, and PyTorch computes the step. ``to_json`` and ``from_json``
are inverse.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from graphopt.errors import ArtifactError, IRError, UsageError
from graphopt.ir.dtype import DType
from graphopt.ir.shape import Dim, evaluate, parse_dim, symbols
from graphopt.json_values import flag, text, whole

LAUNCH_SCHEMA = 3
LAUNCH, TEXT = "launch.json", "kernel.py"
# Who computes a step at sizes for which nothing is launched.
LIBRARY = "PyTorch"
# Of every pointer that a kernel takes, in bytes.
ALIGNMENT = 16
# What a grid may have along x, y and z.
MOST_PROGRAMS = (2**31 - 1, 65535, 65535)


@dataclass(frozen=True, slots=True)
class Launch:
    """One function of a kernel, compiled.

    Attributes:
        file: of the cubin, beside ``launch.json``.
        symbol: the function's name in it.
        constants: what the function was compiled with.
        grid: how many programs, along three axes; over the sizes of the step.
        warps: of one program, as it was asked for; warp specialization adds some.
        stages: how deep loads are pipelined.
        threads: of one program.
        shared_bytes: of dynamic shared memory for one program.
        global_bytes: of memory for one program's descriptors.
        global_alignment: of that memory.
        registers: of one thread.
        spill_bytes: of registers that lie in memory.
        programs: how many a multiprocessor holds at once.
        dependent: whether it may begin before what came before it is over: it waits itself.
    """

    file: str
    symbol: str
    constants: Mapping[str, int]
    grid: tuple[Dim, Dim, Dim]
    warps: int
    stages: int
    threads: int
    shared_bytes: int
    global_bytes: int
    global_alignment: int
    registers: int
    spill_bytes: int
    programs: int
    dependent: bool = False

    def taken(self) -> str:
        """What a program takes, in words."""
        spilled = f" and {self.spill_bytes} bytes spilled" if self.spill_bytes else ""
        return (
            f"{self.symbol}, {self.threads} threads of {self.registers} registers{spilled}, "
            f"{self.shared_bytes} bytes shared, {self.programs} programs on a multiprocessor"
        )

    def counts(self, sizes: Mapping[str, int]) -> tuple[int, int, int]:
        """How many programs run in a step of these sizes; none at all if one is 0."""
        x, y, z = (evaluate(count, sizes) for count in self.grid)
        return x, y, z


@dataclass(frozen=True, slots=True)
class LaunchVariant:
    """One way to run a kernel.

    Attributes:
        below: the sizes that it is for: each at most as large as this.
        launches: what is launched on the same arguments, one after the other.
        origin: who chose it: the model, or a measurement, and on what.
        library: whether PyTorch computes such steps, with its libraries; nothing is launched then.
    """

    below: Mapping[str, int]
    launches: tuple[Launch, ...]
    origin: str = ""
    library: bool = False

    def fits(self, sizes: Mapping[str, int]) -> bool:
        """Whether it is for a step of these sizes."""
        return all(sizes[name] <= bound for name, bound in self.below.items())

    def within(self, sizes: Mapping[str, int]) -> dict[str, int]:
        """The largest sizes up to ``sizes`` that it is for."""
        return {**sizes, **{name: min(bound, sizes[name]) for name, bound in self.below.items()}}

    @property
    def bucket(self) -> str:
        """The sizes that it is for, as text such as ``T<=64``; ``any`` without bounds."""
        return bucket_name(self.below)


@dataclass(frozen=True, slots=True)
class LaunchKernel:
    """A kernel with its compiled variants.

    Attributes:
        name: unique by what it computes and how.
        arch: such as ``sm_90``.
        pointers: element types of its pointers, in order; None for the workspace, the last.
        sizes: names of the sizes that it takes next.
        workspace: bytes that its programs share; zeros before the first run, and whatever part of
            them counts is zero again after each.
        variants: in order; the first that fits is run.
    """

    name: str
    arch: str
    pointers: tuple[DType | None, ...]
    sizes: tuple[str, ...]
    workspace: Dim
    variants: tuple[LaunchVariant, ...]

    def variant(self, sizes: Mapping[str, int]) -> LaunchVariant:
        """The variant that runs in a step of these sizes.

        Raises:
            UsageError: the sizes are beyond what the kernel was compiled for.
        """
        for one in self.variants:
            if one.fits(sizes):
                return one
        raise UsageError(
            "a step is larger than its kernels were compiled for",
            where=self.name,
            got=", ".join(f"{name}={size}" for name, size in sorted(sizes.items())),
            expected=" or ".join(one.bucket for one in self.variants),
        )

    def workspace_bytes(self, sizes: Mapping[str, int]) -> int:
        """Bytes of workspace if no step is larger than ``sizes``; a library needs none of it."""
        launched = (one for one in self.variants if not one.library)
        return max((evaluate(self.workspace, one.within(sizes)) for one in launched), default=0)

    def summary(self) -> list[str]:
        """What each variant takes of a GPU, a line for each launch, or for the library."""
        return [
            f"{self.arch}, {variant.bucket}: {taken}"
            + (f", {variant.origin}" if variant.origin else "")
            for variant in self.variants
            for taken in (
                [LIBRARY] if variant.library else [one.taken() for one in variant.launches]
            )
        ]

    def to_json(self) -> dict[str, Any]:
        """Plain data for ``launch.json``."""
        return {
            "schema": LAUNCH_SCHEMA,
            "name": self.name,
            "arch": self.arch,
            "pointers": [dtype.value if dtype else None for dtype in self.pointers],
            "sizes": list(self.sizes),
            "workspace": str(self.workspace),
            "variants": [_variant_to_json(one) for one in self.variants],
        }

    @classmethod
    def from_json(cls, data: object) -> LaunchKernel:
        """The kernel that ``to_json`` wrote.

        Raises:
            ArtifactError: the data is no kernel of this version.
        """
        if not isinstance(data, Mapping) or data.get("schema") != LAUNCH_SCHEMA:
            got = data.get("schema") if isinstance(data, Mapping) else type(data).__name__
            raise ArtifactError(f"{LAUNCH} has another schema", got=got, expected=LAUNCH_SCHEMA)
        try:
            return _kernel_from_json(data)
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError, IRError) as error:
            raise ArtifactError(f"{LAUNCH} is not readable", got=repr(error)[:200]) from error


def bucket_name(below: Mapping[str, int]) -> str:
    """The sizes within bounds, as text."""
    return " and ".join(f"{name}<={bound}" for name, bound in sorted(below.items())) or "any"


def _variant_to_json(one: LaunchVariant) -> dict[str, Any]:
    return {
        "below": dict(one.below),
        "origin": one.origin,
        "library": one.library,
        "launches": [_launch_to_json(launch) for launch in one.launches],
    }


def _launch_to_json(one: Launch) -> dict[str, Any]:
    return {
        "file": one.file,
        "symbol": one.symbol,
        "constants": dict(one.constants),
        "grid": [str(count) for count in one.grid],
        "warps": one.warps,
        "stages": one.stages,
        "threads": one.threads,
        "shared_bytes": one.shared_bytes,
        "global_bytes": one.global_bytes,
        "global_alignment": one.global_alignment,
        "registers": one.registers,
        "spill_bytes": one.spill_bytes,
        "programs": one.programs,
        "dependent": one.dependent,
    }


def _kernel_from_json(data: Mapping[str, Any]) -> LaunchKernel:
    sizes = tuple(text(name) for name in data["sizes"])
    pointers = tuple(None if one is None else DType(one) for one in data["pointers"])
    if None in pointers[:-1]:
        raise ValueError("a workspace is the last pointer")
    known = {"T", "R", "S", "P", *sizes}
    return LaunchKernel(
        text(data["name"]),
        text(data["arch"]),
        pointers,
        sizes,
        _dim(data["workspace"], known),
        tuple(_variant_from_json(row, known) for row in data["variants"]),
    )


def _variant_from_json(row: Mapping[str, Any], known: set[str]) -> LaunchVariant:
    below = {text(name): whole(bound, 0) for name, bound in row["below"].items()}
    if not below.keys() <= known:
        raise ValueError(f"bounds on unknown sizes: {sorted(below)}")
    launches = tuple(_launch_from_json(one, known) for one in row["launches"])
    library = flag(row["library"])
    if library == bool(launches):
        raise ValueError("a variant is what it launches, or the library")
    return LaunchVariant(below, launches, text(row["origin"]), library)


def _launch_from_json(row: Mapping[str, Any], known: set[str]) -> Launch:
    x, y, z = (_dim(count, known) for count in row["grid"])
    file = text(row["file"])
    if "/" in file or "\\" in file or file.startswith("."):
        raise ValueError(f"{file!r} is not beside {LAUNCH}")
    return Launch(
        file,
        text(row["symbol"]),
        {text(name): whole(value, -(2**31)) for name, value in row["constants"].items()},
        (x, y, z),
        whole(row["warps"], 1),
        whole(row["stages"], 1),
        whole(row["threads"], 1, 1024),
        whole(row["shared_bytes"], 0),
        whole(row["global_bytes"], 0),
        whole(row["global_alignment"], 1),
        whole(row["registers"], 0),
        whole(row["spill_bytes"], 0),
        whole(row["programs"], 0),
        flag(row["dependent"]),
    )


def _dim(value: object, known: set[str]) -> Dim:
    found = parse_dim(text(value))
    if not symbols(found) <= known:
        raise ValueError(f"{value!r} has unknown sizes")
    return found

"""A kernel on its way into a plan: of alternatives, which one is launched.

before:  a kernel's variants, how large a step's sizes can be, what was measured
after:   for each bucket that a step reaches, the cubins of one variant, or a library; and the sizes
         of buckets of which nothing runs are those of the next bucket
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from graphopt.errors import CompileError
from graphopt.ir.graph import Graph
from graphopt.launch import Launch, LaunchKernel, LaunchVariant
from graphopt.ledger import Verdict, refuse
from graphopt.region import Region

from .ahead import Outcome, Request
from .autotune import Choice, Tuned, has_library, key_of
from .buckets import Bucket, buckets_of, reachable
from .kernel import TritonKernel, Variant
from .worker import Built

MODELS_PICK = "the model's pick"


@dataclass(frozen=True, slots=True)
class Compiled:
    """A kernel with what of it is launched, and the files that this takes.

    Attributes:
        kernel: what is launched.
        codes: its cubins by file.
        note: for the ledger: what was chosen why, and what is wrong with it.
    """

    kernel: LaunchKernel
    codes: Mapping[str, bytes]
    note: str


class Choosing:
    """A kernel on its way: the variants that are wanted, and what came of them."""

    def __init__(
        self,
        kernel: TritonKernel,
        graph: Graph,
        region: Region | None,
        most: Mapping[str, int],
        tuned: Tuned | None,
    ) -> None:
        self.built: dict[str, Outcome] = {}
        self.refused: Verdict | None = None
        self._kernel = kernel
        self._most = most
        self._tuned = tuned
        self._dropped: list[str] = []
        self._buckets: list[Bucket] = []
        self._measured: dict[str, tuple[Choice, Variant]] = {}
        self._libraries: set[str] = set()  # names of the buckets that they compute
        for bucket in buckets_of(kernel.variants):
            choice = tuned.find(key_of(kernel, graph, region, bucket)) if tuned and region else None
            if choice and (measured := choice.of(kernel, bucket)):
                self._measured[bucket.name] = choice, measured
                if choice.is_library and region and has_library(region):
                    self._libraries.add(bucket.name)
                bucket = Bucket(bucket.below, (measured, *bucket.candidates))
            self._buckets.append(bucket)

    def wanted(self) -> list[Request]:
        """What has to be compiled next."""
        if self.refused is not None:
            return []
        chosen = [one for bucket in self._launched() for one in bucket.candidates]
        fresh = {repr(one): one for one in chosen if repr(one) not in self.built}
        return [Request(self._kernel, one) for one in fresh.values()]

    def settle(self) -> None:
        """Give up buckets of which nothing runs; larger bounds take their sizes."""
        for bucket in self._launched():
            if self.refused is None and self._pick(bucket) is None:
                why = self._why_not(bucket)
                if bucket is self._buckets[-1]:
                    self.refused = refuse(f"its kernel does not run on this GPU: {why}")
                else:
                    self._dropped.append(f"none for {bucket.name}: {why}")
                    self._buckets.remove(bucket)

    def picked(self, sizes: Mapping[str, int]) -> Variant | None:
        """The variant that a step of these sizes launches; None if a library computes it.

        Raises:
            CompileError: not everything is settled.
        """
        bucket = next(one for one in self._reached() if one.fits(sizes))
        if bucket.name in self._libraries:
            return None
        picked = self._pick(bucket)
        if picked is None:
            raise CompileError("a kernel is not settled", where=self._kernel.name)
        return picked[0]

    def compiled(self, arch: str) -> Compiled:
        """What is launched, once everything is settled."""
        files: dict[bytes, str] = {}
        variants: list[LaunchVariant] = []
        said: dict[str, list[str]] = {}
        for bucket in self._reached():
            choice, measured = self._measured.get(bucket.name, (None, None))
            by_measuring = choice.origin(self._tuned.gpu) if choice and self._tuned else ""
            if bucket.name in self._libraries:
                variants.append(LaunchVariant(dict(bucket.below), (), by_measuring, library=True))
                said.setdefault(by_measuring, []).append(bucket.name)
                continue
            picked = self._pick(bucket)
            if picked is None:
                raise CompileError("a kernel is not settled", where=self._kernel.name)
            variant, built = picked
            origin = by_measuring if variant == measured else MODELS_PICK
            launches = []
            for launch, one in zip(variant.launches, built, strict=True):
                file = files.setdefault(one.code, f"{len(files)}.cubin")
                launches.append(_launch(launch, one, file))
            variants.append(LaunchVariant(dict(bucket.below), tuple(launches), origin))
            flaws = [flaw for one in built for flaw in one.problems]
            said.setdefault(", ".join([origin, *flaws]), []).append(bucket.name)
        k = self._kernel
        kernel = LaunchKernel(k.name, arch, k.pointers, k.sizes, k.workspace, tuple(variants))
        notes = [f"{what} for {', '.join(names)}" for what, names in said.items()]
        note = f"{arch}: {'; '.join([*notes, *self._dropped])}"
        return Compiled(kernel, {file: code for code, file in files.items()}, note)

    def _reached(self) -> tuple[Bucket, ...]:
        return reachable(self._buckets, self._most)

    def _launched(self) -> tuple[Bucket, ...]:
        return tuple(one for one in self._reached() if one.name not in self._libraries)

    def _pick(self, bucket: Bucket) -> tuple[Variant, tuple[Built, ...]] | None:
        """The first candidate without problems, else the first that can be launched at all."""
        running: list[tuple[Variant, tuple[Built, ...]]] = []
        for one in bucket.candidates:
            outcome = self.built.get(repr(one))
            if isinstance(outcome, tuple) and all(built.programs for built in outcome):
                running.append((one, outcome))
        clean = (pair for pair in running if not any(built.problems for built in pair[1]))
        return next(clean, running[0] if running else None)

    def _why_not(self, bucket: Bucket) -> str:
        outcome = self.built.get(repr(bucket.candidates[-1]))
        if isinstance(outcome, Verdict):
            return outcome.reason
        return (
            "; ".join(flaw for one in outcome or () for flaw in one.problems) or "it is too large"
        )


def compiled_kernel(
    kernel: TritonKernel, arch: str, variant: Variant, built: Sequence[Built]
) -> tuple[LaunchKernel, dict[str, bytes]]:
    """A kernel that is launched as one variant for all sizes, and its cubins by file."""
    codes = {f"{place}.cubin": one.code for place, one in enumerate(built)}
    launches = tuple(
        _launch(launch, one, file)
        for launch, one, file in zip(variant.launches, built, codes, strict=True)
    )
    variants = (LaunchVariant({}, launches),)
    found = LaunchKernel(
        kernel.name, arch, kernel.pointers, kernel.sizes, kernel.workspace, variants
    )
    return found, codes


def _launch(variant: Variant, built: Built, file: str) -> Launch:
    x, y, z = (*variant.grid, 1, 1)[:3]
    return Launch(
        file,
        built.symbol,
        dict(variant.constants),
        (x, y, z),
        variant.num_warps,
        variant.num_stages,
        built.threads,
        built.shared_bytes,
        built.global_bytes,
        built.global_alignment,
        built.registers,
        built.spill_bytes,
        built.programs,
        variant.dependent,
    )

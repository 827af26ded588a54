"""Whether a kernel is right: every variant that fits, twice, against the reference in float64."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from graphopt.codegen.triton.kernel import TritonKernel

from .case import TOLERANCE, Case, Result, Work, relative_error
from .launch import Launcher, with_workspace


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one variant gave in one case.

    Attributes:
        variant: which, by its place.
        error: the greatest relative error of its results.
        problems: what is wrong, in words; empty if nothing is.
    """

    variant: int
    error: float
    problems: tuple[str, ...]

    @property
    def is_right(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    def as_json(self) -> dict[str, Any]:
        """For the results."""
        return asdict(self) | {"error": finite(self.error)}


def finite(error: float) -> float | None:
    """An error as JSON has it: none where it is no number."""
    return error if math.isfinite(error) else None


def check_case(
    case: Case, kernel: TritonKernel, launcher: Launcher, device: torch.device, seed: int = 1
) -> list[Outcome]:
    """The outcome of every variant that is for the case's sizes."""
    work = case.work(device, seed)
    return check_work(case, kernel, launcher, work, work.expected())


def check_work(
    case: Case,
    kernel: TritonKernel,
    launcher: Launcher,
    work: Work,
    expected: Sequence[Tensor],
) -> list[Outcome]:
    """The same on operands, and what is expected of them, that there are already."""
    found = []
    for place, variant in enumerate(kernel.variants):
        if not variant.fits(work.sizes):
            continue
        work.reset()
        pointers = with_workspace(kernel, work.pointers, work.sizes)
        run = launcher.prepare(kernel, variant, pointers, work.sizes)
        run()
        first = [result.tensor.clone() for result in work.results]
        errors, problems = _judged(case, work.results, expected)
        work.reset()
        run()  # its counters are zero again, and its sums have the same order
        for result, before in zip(work.results, first, strict=True):
            if not _same(_live(result, result.tensor), _live(result, before)):
                problems.append(f"{result.name}: another result the second time")
        found.append(Outcome(place, max(errors, default=0.0), tuple(problems)))
    return found


def _judged(
    case: Case, results: Sequence[Result], expected: Sequence[Tensor]
) -> tuple[list[float], list[str]]:
    errors: list[float] = []
    problems: list[str] = []
    for result, want in zip(results, expected, strict=True):
        if not result.is_guard_intact():
            problems.append(f"{result.name}: written past the end")
        got, want = _live(result, result.tensor), _live(result, want)
        if not got.dtype.is_floating_point:
            wrong = int((got != want).sum())
            if wrong:
                problems.append(f"{result.name}: {wrong} of {got.numel()} are wrong")
            continue
        error = relative_error(got, want)
        limit = case.tolerance or TOLERANCE.get(got.dtype, 1e-2)
        errors.append(error)
        if not error <= limit:
            problems.append(f"{result.name}: off by {error:.2e}, {limit:.0e} is allowed")
    return errors, problems


def _live(result: Result, tensor: Tensor) -> Tensor:
    return tensor if result.live is None else tensor[: result.live]


def _same(one: Tensor, other: Tensor) -> bool:
    return torch.equal(
        one.contiguous().view(torch.uint8).flatten(), other.contiguous().view(torch.uint8).flatten()
    )

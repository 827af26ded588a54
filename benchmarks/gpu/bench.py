"""Runs cases on a device: each checked, then timed beside its peers; one row of facts for each.

A kernel that is wrong is not timed. What a case raises is its row's; only an error after which the
device answers nothing any more ends the run, and the caller goes on in a fresh process.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from graphopt.codegen.triton.kernel import TritonKernel, Variant

from .ahead import fitting, made_kernel, title
from .case import AbsentError, Case, Peer, Work, relative_error
from .check import Outcome, check_work, finite
from .clock import Clock, measure
from .launch import Launcher, with_workspace
from .machine import architecture
from .peers import compiled, in_pytorch
from .rates import Rates

# What peers may be off by: some compute in narrower types than we do.
PEER_TOLERANCE = 4e-2
Row = dict[str, Any]


class DeviceLostError(Exception):
    """Nothing more can be run in this process; ``row`` tells of the case that did it."""

    def __init__(self, row: Row) -> None:
        super().__init__(row.get("reason", ""))
        self.row = row


@dataclass(frozen=True, slots=True)
class Bench:
    """How to run cases.

    Attributes:
        device: where.
        launchers: ways to run kernels; the first is the one that counts.
        clock: what times them; None to check only.
        rounds: samples of each contender.
        compiles_peers: whether PyTorch's compiler takes part.
        all_variants: whether variants that would not be chosen are timed too.
    """

    device: torch.device
    launchers: Sequence[Launcher]
    clock: Clock | None = None
    rounds: int = 30
    compiles_peers: bool = True
    all_variants: bool = False

    def run(self, case: Case) -> Row:
        """Everything about one case.

        Raises:
            DeviceLostError: the device does not answer any more.
        """
        row: Row = {
            "name": case.name,
            "family": case.family,
            "sizes": dict(case.sizes),
            "flops": case.flops,
            "bytes": case.nbytes,
        }
        made = made_kernel(case, architecture(self.device))
        if made.kernel is None:
            return row | {"status": made.status, "reason": made.reason}
        row["kernel"] = made.kernel.name
        try:
            picked = self.launchers[0].picked(made.kernel, case.sizes, case.source)
            row["variant"] = _told_variant(picked)
            work = case.work(self.device, 1)
            expected = work.expected()
            row |= self._checked(case, made.kernel, work, expected)
            if self.clock is not None and row["status"] == "right":
                row |= self._timed(case, made.kernel, picked, work, expected)
        except Exception as error:
            row |= {"status": "failed", "reason": told(error)}
            if is_fatal(error):
                raise DeviceLostError(row) from error
        finally:
            self._forget()
        return row

    def _checked(
        self, case: Case, kernel: TritonKernel, work: Work, expected: Sequence[Tensor]
    ) -> Row:
        """The outcome by every launcher; one that is absent says so."""
        found: dict[str, list[Outcome]] = {}
        absent: dict[str, str] = {}
        for launcher in self.launchers:
            try:
                found[launcher.name] = check_work(case, kernel, launcher, work, expected)
            except AbsentError as error:
                absent[launcher.name] = str(error)
        outcomes = [outcome for all_ in found.values() for outcome in all_]
        if not outcomes:
            return {"status": "absent", "reason": "; ".join(absent.values())}
        wrong = [problem for outcome in outcomes for problem in outcome.problems]
        return {
            "status": "wrong" if wrong else "right",
            "reason": "; ".join(dict.fromkeys(wrong)),
            "error": finite(max(outcome.error for outcome in outcomes)),
            "checks": {name: [one.as_json() for one in all_] for name, all_ in found.items()},
            "absent": absent,
        }

    def _timed(
        self,
        case: Case,
        kernel: TritonKernel,
        picked: Variant,
        work: Work,
        expected: Sequence[Tensor],
    ) -> Row:
        if self.clock is None:
            return {}
        contenders: dict[str, Callable[[], object]] = {}
        pointers = with_workspace(kernel, work.pointers, work.sizes)
        for launcher in self.launchers:
            for name, variant in self.timed(kernel, picked, work.sizes).items():
                name += "" if launcher is self.launchers[0] else f" ({launcher.name})"
                try:
                    contenders[name] = launcher.prepare(kernel, variant, pointers, work.sizes)
                except AbsentError:
                    continue
        peers: dict[str, Row] = {}
        for name, peer in self._peers(case).items():
            run, row = self._tried(peer, work, expected[0])
            peers[name] = row
            if run is not None:
                contenders[name] = run
        found = measure(self.clock, contenders, self.rounds)
        return {
            "times": {name: timing.as_json() for name, timing in found.items()},
            "peers": peers,
        }

    def timed(
        self, kernel: TritonKernel, picked: Variant, sizes: Mapping[str, int]
    ) -> dict[str, Variant]:
        """The variants that are timed, by what tables call them: the picked one is ``graphopt``."""
        found = {"graphopt": picked}
        if self.all_variants:
            for place in fitting(kernel, sizes):
                if kernel.variants[place] != picked:
                    found[f"graphopt variant {place}"] = kernel.variants[place]
        return found

    def _peers(self, case: Case) -> dict[str, Peer]:
        found: dict[str, Peer] = {}
        if case.eager is not None:
            found["torch"] = in_pytorch(case.eager)
            if self.compiles_peers:
                found["torch.compile"] = compiled(case.eager)
        found |= case.peers
        if not self.compiles_peers:
            found = {
                name: peer
                for name, peer in found.items()
                if name not in ("torch.compile", "FlexAttention")
            }
        return found

    def _tried(
        self, peer: Peer, work: Work, expected: Tensor
    ) -> tuple[Callable[[], object] | None, Row]:
        """A peer that runs, and how far off it is; or why it takes no part."""
        try:
            with torch.no_grad():
                run = peer(work)
                got = run()
        except AbsentError as error:
            return None, {"status": "absent", "reason": str(error)}
        except Exception as error:
            if is_fatal(error):
                raise
            return None, {"status": "failed", "reason": told(error)}
        if got.numel() == expected.numel():
            live = work.results[0].live
            error_ = relative_error(got.reshape(expected.shape)[:live], expected[:live])
            if error_ > PEER_TOLERANCE:
                return None, {"status": "wrong", "error": finite(error_)}
            return _without_gradients(run), {"status": "right", "error": error_}
        return _without_gradients(run), {"status": "unchecked"}

    def _forget(self) -> None:
        """Gives memory and compiled functions back, so that no case sees another's."""
        torch._dynamo.reset()
        gc.collect()
        if self.device.type == "cuda":
            try:
                torch.cuda.empty_cache()
            except RuntimeError:
                return  # the error that led here is told already


def _told_variant(picked: Variant) -> list[str]:
    """The launches of a variant in words."""
    return [title(launch) for launch in picked.launches]


def fractions(row: Row, rates: Rates) -> Row:
    """What our time is of the device's rates."""
    ours = row["times"]["graphopt"]["median_us"] / 1e6
    return {
        "bytes_per_second": row["bytes"] / ours,
        "flops_per_second": row["flops"] / ours,
        "of_copy": row["bytes"] / ours / rates.bytes_per_second,
        "of_product": row["flops"] / ours / rates.flops_per_second,
        "of_bound": rates.least_seconds(row["bytes"], row["flops"]) / ours,
    }


def told(error: BaseException) -> str:
    """What an error says, and the first cause of it."""
    cause = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    own = f"{type(error).__name__}: {error}"
    return (
        own[:1500] if cause is error else f"{own[:1000]} [{type(cause).__name__}: {cause}]"[:2000]
    )


def is_fatal(error: BaseException) -> bool:
    """Whether the device answers nothing after it."""
    text = told(error)
    marks = (
        "CUDA error",
        "CUDA driver error",
        "ILLEGAL_ADDRESS",
        "ILLEGAL_INSTRUCTION",
        "MISALIGNED_ADDRESS",
        "LAUNCH_FAILED",
    )
    harmless = ("out of memory", "invalid argument", "invalid configuration", "too many resources")
    return any(mark in text for mark in marks) and not any(mark in text for mark in harmless)


def _without_gradients(run: Callable[[], object]) -> Callable[[], object]:
    def wrapped() -> object:
        with torch.no_grad():
            return run()

    return wrapped

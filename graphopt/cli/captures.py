"""What is captured of an artifact for a GPU, in words: sizes, bytes, and why."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

import click

from .output import human_bytes, print_table

if TYPE_CHECKING:
    from graphopt.artifact import Artifact
    from graphopt.plan import Plan
    from graphopt.runtime.capture_plan import CapturePlan

COLUMNS = ("captured", "for", "bytes of each", "bytes")


def captures_of(artifact: Artifact, trace: str | None = None) -> CapturePlan:
    """What is captured by default, or for the batches that a file recorded.

    Raises:
        UsageError: the artifact is for a CPU, or the file is no trace.
    """
    from graphopt.errors import UsageError
    from graphopt.runtime.capture_choice import choose_captures, launches_of
    from graphopt.runtime.capture_trace import read_trace
    from graphopt.runtime.gpu_setup import is_for_gpu
    from graphopt.runtime.loading import engine_limits

    plan = artifact.plan
    if not is_for_gpu(plan):
        raise UsageError(
            "captures are for a GPU, and this artifact is for a CPU",
            where=str(artifact.path),
            got=plan.target,
            next="leave out --captures; each of the pieces that --plan shows is a function",
        )
    seen = None if trace is None else read_trace(trace)
    return choose_captures(plan, launches_of(artifact), engine_limits(plan), seen)


def captures_json(captured: CapturePlan, plan: Plan) -> dict[str, Any]:
    """Sizes, bytes and reasons as plain data, and why each piece ends."""
    cuts = {piece.name: piece.cut for piece in plan.pieces if piece.cut}
    return {**captured.to_json(), "bytes": captured.total_bytes, "cuts": cuts}


def summary_line(captured: CapturePlan) -> str:
    """All in one line."""
    return (
        f"{_count(captured.decode_sizes)} of whole steps, {_count(captured.piece_sizes)} of "
        f"pieces, about {human_bytes(captured.total_bytes)}: see --captures"
    )


def print_captures(captured: CapturePlan, plan: Plan) -> None:
    """Sizes and bytes as a table, then a sentence for each choice and for each cut."""
    print_table(COLUMNS, capture_rows(captured), right=(2, 3))
    click.echo()
    for reason in captured.reasons:
        click.echo(reason)
    for piece in plan.pieces:
        if piece.cut:
            click.echo(f"{piece.name} ends: {piece.cut}")


def capture_rows(captured: CapturePlan) -> list[tuple[str, ...]]:
    """A row for each run of sizes that take the same, then the sum."""
    parts = (
        ("whole steps", "sequences", captured.decode_sizes, captured.decode_bytes),
        ("pieces", "tokens", captured.piece_sizes, captured.piece_bytes),
    )
    rows = [
        (
            name,
            f"{', '.join(map(str, run))} {unit}",
            human_bytes(each),
            human_bytes(each * len(run)),
        )
        for name, unit, sizes, nbytes in parts
        for each, run in _runs(sizes, nbytes)
    ]
    return [
        *rows,
        ("in all", "an estimate, checked when it is done", "", human_bytes(captured.total_bytes)),
    ]


def _runs(sizes: Sequence[int], nbytes: Sequence[int]) -> Iterator[tuple[int, list[int]]]:
    """Runs of sizes that take the same number of bytes."""
    for each, run in groupby(zip(sizes, nbytes, strict=True), key=lambda pair: pair[1]):
        yield each, [size for size, _ in run]


def _count(sizes: Sequence[int]) -> str:
    return "1 size" if len(sizes) == 1 else f"{len(sizes)} sizes"

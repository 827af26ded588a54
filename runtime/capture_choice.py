"""At which sizes steps are captured: a fixed series, or what a recorded workload asks for.

before:  a plan, how its kernels are launched, what a step may hold, and perhaps batches that ran
after:   a ``CapturePlan``, with a sentence for each choice
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from graphopt.artifact import Artifact
from graphopt.plan import Plan

from .capture_cost import Launches, pieces_bytes, whole_bytes, why_not_whole
from .capture_fit import fit_sizes, padding
from .capture_plan import CapturePlan, columns_at
from .dispatch import BatchShape
from .kv_cache import blocks_for
from .scheduler import SchedulerLimits

# Pieces are captured up to so many tokens: a step of more computes for milliseconds, in which the
# host launches hundreds of kernels.
MOST_PIECE_TOKENS = 4096
LEAST_PIECE_TOKENS = 16
# So many sizes are listed one by one.
_LISTED = 8

Trace = Mapping[BatchShape, int]


@dataclass(frozen=True, slots=True)
class _Part:
    """What is captured of one kind: bytes by size, increasing, and sentences."""

    costs: Mapping[int, int]
    reasons: tuple[str, ...]


def launches_of(artifact: Artifact) -> Launches:
    """How each compiled kernel of an artifact for a GPU is launched, by name."""
    return {name: artifact.launch(name) for name in artifact.launch_archs}


def choose_captures(
    plan: Plan, launches: Launches, limits: SchedulerLimits, trace: Trace | None = None
) -> CapturePlan:
    """What is captured for a plan on a GPU.

    Args:
        plan: what runs.
        launches: how its kernels are launched.
        limits: what a step may hold.
        trace: how often batches of each shape came; None for sizes that suit any workload.

    Usage: ``choose_captures(artifact.plan, launches_of(artifact), limits)``.
    """
    columns = blocks_for(limits.max_model_len, plan.block_size)
    wholes = _wholes(plan, launches, limits, trace or {})
    pieces = _pieces(plan, launches, limits, trace or {}, max(wholes.costs, default=0))
    return CapturePlan(
        tuple(wholes.costs),
        tuple(pieces.costs),
        columns,
        tuple(wholes.costs.values()),
        tuple(pieces.costs.values()),
        (*wholes.reasons, *pieces.reasons),
    )


def decode_series(most: int) -> tuple[int, ...]:
    """1, 2, 4, then every eighth, from 256 on every sixteenth; the last is ``most``."""
    series = (1, 2, 4, *range(8, 256, 8), *range(256, most, 16))
    return (*(size for size in series if size < most), most)


def piece_series(most: int) -> tuple[int, ...]:
    """Four sizes from each power of two to the next, from 64 on; the last is ``most``."""
    found, size = [], LEAST_PIECE_TOKENS
    while size < most:
        found.append(size)
        size += max(LEAST_PIECE_TOKENS, 1 << size.bit_length() - 3)
    return (*found, most)


def listed(sizes: Sequence[int]) -> str:
    """Sizes as words; of many, the first and the last."""
    shown = [str(size) for size in sizes]
    if len(shown) > _LISTED:
        return f"{', '.join(shown[: _LISTED - 2])} … {shown[-1]}"
    return " and ".join(filter(None, (", ".join(shown[:-1]), shown[-1])))


def _wholes(plan: Plan, launches: Launches, limits: SchedulerLimits, trace: Trace) -> _Part:
    """Whole steps, in which every sequence has one token."""
    if plan.embedding is not None:
        return _Part({}, ("No whole step is captured, because texts that embed have no decodes.",))
    columns = blocks_for(limits.max_model_len, plan.block_size)
    most = limits.max_num_seqs
    seen: Counter[int] = Counter()
    for shape, count in trace.items():
        if shape.is_decode and shape.sequences <= most:
            seen[shape.sequences] += count
    chosen, fitted = _sizes(decode_series(most), seen, "sequences")
    costs: dict[int, int] = {}
    refused: dict[str, list[int]] = {}
    for size in chosen:
        sizes = {"T": size, "R": size, "S": size, "P": columns_at(size, columns)}
        if reason := why_not_whole(plan, launches, sizes):
            refused.setdefault(reason, []).append(size)
        else:
            costs[size] = whole_bytes(plan, launches, sizes)
    said = []
    if costs:
        said = [
            "Steps in which every sequence has one token are captured whole, for "
            f"{listed(tuple(costs))} sequences; others are padded to the next of these.",
            *fitted,
            _about_tables(columns, tuple(costs), plan.block_size),
        ]
    said += [
        f"Steps of {listed(sizes)} sequences are not captured whole, because {reason}."
        for reason, sizes in refused.items()
    ]
    return _Part(costs, tuple(said))


def _about_tables(columns: int, sizes: Sequence[int], block_size: int) -> str:
    """A sentence about the width of the tables of whole steps."""
    narrow = [size for size in sizes if columns_at(size, columns) < columns]
    widest = (
        f"Whole steps have tables of {columns} columns, enough for the longest context: kernels "
        "read each sequence's length on the device, so width costs a copy and no more"
    )
    if not narrow:
        return f"{widest}."
    least = columns_at(narrow[-1], columns)
    return (
        f"{widest}; from {narrow[0]} sequences on they are narrower, down to {least} columns for "
        f"{narrow[-1]} sequences, and steps with a context beyond that (there {least * block_size} "
        "tokens) run in pieces."
    )


def _pieces(
    plan: Plan, launches: Launches, limits: SchedulerLimits, trace: Trace, most_whole: int
) -> _Part:
    """Pieces of all steps but those of up to ``most_whole`` sequences that are captured whole."""
    most = min(limits.max_num_batched_tokens, MOST_PIECE_TOKENS)
    others = Counter[int]()
    for shape, count in trace.items():
        if not (shape.is_decode and shape.sequences <= most_whole):
            others[shape.tokens] += count
    seen = {tokens: count for tokens, count in others.items() if tokens <= most}
    chosen, fitted = _sizes(piece_series(most), seen, "tokens")
    costs = {size: pieces_bytes(plan, launches, size) for size in chosen}
    costs = {size: nbytes for size, nbytes in costs.items() if nbytes}
    if not costs:
        return _Part({}, ("No piece is captured, because none is of compiled kernels alone.",))
    said = [
        "In other steps the pieces between attention are captured, for "
        f"{listed(tuple(costs))} tokens; what depends on more than their number is launched "
        "plainly.",
        *fitted,
    ]
    if limits.max_num_batched_tokens > most:
        said.append(
            f"Steps of more than {most} tokens are launched plainly: they compute for longer than "
            "launching takes."
        )
    if beyond := others.total() - sum(seen.values()):
        said.append(f"{beyond:,} recorded batches are larger than that, and do not count.")
    return _Part(costs, tuple(said))


def _sizes(
    series: Sequence[int], seen: Mapping[int, int], unit: str
) -> tuple[Sequence[int], list[str]]:
    """At most as many sizes as ``series``, fitted to what was seen, and a sentence; else these."""
    if not seen:
        return series, []
    fitted = fit_sizes(seen, series[-1], len(series))
    real = sum(size * count for size, count in seen.items())
    ours, usual = (padding(seen, sizes) / real for sizes in (fitted, series))
    return fitted, [
        f"These sizes are fitted to {sum(seen.values()):,} recorded batches, whose {unit} padding "
        f"makes {ours:.1%} more; with the usual sizes it would be {usual:.1%}."
    ]

"""The steps that a model and its twin are tried with: what an engine does to it in a busy hour.

Sequences of different lengths share blocks of four tokens in no order. One is far ahead of the
others; prompts come in chunks beside decodes; the order within a step changes; one step has
padding, one a single token, one wants no rows. Memory nobody wrote holds NaN. Where tokens see what
comes after them, every sequence comes whole, beside others of other lengths.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from graphopt.ir.graph import Graph
from graphopt.ir.interpreter import Interpreter
from graphopt.ir.reference import PagedState
from graphopt.ir.types import StateType

BLOCK = 4
LENGTHS = (29, 18, 9, 120)
WHOLE_LENGTHS = (*LENGTHS, 1)

# Per step, for each sequence in it: which, how many tokens, and of how many of them, counted from
# the last, the rows are wanted. -1 stands for all that are left but so many.
_Part = tuple[int, int, int]
_STEPS: tuple[tuple[_Part, ...], ...] = (
    ((3, 11, 0),),
    ((0, 13, 13), (3, -6, 1)),
    ((1, 9, 9), (0, 8, 8), (3, 1, 1)),
    ((3, 1, 1), (1, 1, 1), (0, 5, 5), (2, 4, 2)),
    ((1, 1, 1),),
    ((2, 1, 1), (0, 1, 1), (3, 1, 1), (1, 1, 0)),
    ((0, -1, 1), (1, 2, 2), (2, -1, 3), (3, 1, 1)),
    ((2, 1, 1), (3, 1, 1), (1, -1, 2), (0, 1, 1)),
    ((3, -0, 9), (1, -0, 9)),
)
_WHOLE_STEPS: tuple[tuple[_Part, ...], ...] = (
    ((3, -0, 120), (1, -0, 18)),
    ((2, -0, 9),),
    ((4, -0, 1),),
    ((0, -0, 29),),
)
_PADDED_STEP = 3
_PADDING = 3


@dataclass(slots=True)
class Track:
    """One sequence: its tokens, its blocks, how far it has come, and the rows it was given."""

    tokens: list[int]
    blocks: list[int]
    done: int = 0
    rows: list[tuple[int, Tensor]] = field(default_factory=list)


def sees_all(graph: Graph) -> bool:
    """Whether tokens see what comes after them, so that a sequence has to come whole."""
    return any(value.name == "reaches" for value in graph.inputs)


def make_tracks(
    vocabulary: int,
    longest: int,
    seed: int,
    special: Sequence[int] = (),
    *,
    lengths: Sequence[int] = LENGTHS,
    without: int | None = None,
) -> list[Track]:
    """Sequences of random tokens, none longer than ``longest``; special tokens are among them.

    The token ``without`` is in none of them.
    """
    chance = random.Random(seed)
    lengths = [min(length, longest) for length in lengths]
    counts = [-(-length // BLOCK) for length in lengths]
    pool = list(range(1, sum(counts) + 1))
    chance.shuffle(pool)
    tracks = []
    for length, count in zip(lengths, counts, strict=True):
        tokens = [chance.randrange(vocabulary) for _ in range(length)]
        for token in special:
            tokens[chance.randrange(length)] = token
        tokens = [(token + 1) % vocabulary if token == without else token for token in tokens]
        tracks.append(Track(tokens, [pool.pop() for _ in range(count)]))
    return tracks


def play(graph: Graph, weights: Mapping[str, Tensor], tracks: Sequence[Track]) -> None:
    """Runs all steps; every track gets the rows it asked for, with their positions.

    Raises:
        IRError: the graph does not run on these sizes.
    """
    interpreter = Interpreter(graph, weights)
    type_ = graph.input("kv").type
    blocks = 1 + max(max(track.blocks) for track in tracks)
    if not isinstance(type_, StateType):
        return
    state = PagedState.allocate(type_, blocks, BLOCK, fill=float("nan"))
    whole = sees_all(graph)
    for number, step in enumerate(_WHOLE_STEPS if whole else _STEPS):
        parts = [(tracks[which], *_amount(tracks[which], n, rows)) for which, n, rows in step]
        parts = [part for part in parts if part[1]]
        if parts:
            padding = _PADDING if number == _PADDED_STEP else 0
            _run(interpreter, state, parts, padding, whole=whole)


def _amount(track: Track, count: int, rows: int) -> tuple[int, int]:
    left = len(track.tokens) - track.done
    count = max(left + count if count <= 0 else min(count, left), 0)
    ends_unseen = count == left and not track.rows
    return count, min(max(rows, 1) if ends_unseen else rows, count)


def _run(
    interpreter: Interpreter,
    state: PagedState,
    parts: Sequence[tuple[Track, int, int]],
    padding: int,
    *,
    whole: bool,
) -> None:
    """One step: for each part a track, how many tokens, and how many rows of the output."""
    tokens: list[int] = []
    positions: list[int] = []
    slots: list[int] = []
    reaches: list[int] = []
    rows: list[int] = []
    wanted: list[tuple[Track, int]] = []
    starts = [0]
    for track, count, last in parts:
        for position in range(track.done, track.done + count):
            if position >= track.done + count - last:
                rows.append(len(tokens))
                wanted.append((track, position))
            tokens.append(track.tokens[position])
            positions.append(position)
            slots.append(track.blocks[position // BLOCK] * BLOCK + position % BLOCK)
            reaches.append(len(track.tokens))
        track.done += count
        starts.append(len(tokens))
    order = list(range(len(rows)))[::-1]  # rows need not be in the order of tokens
    inputs: dict[str, Any] = {
        "token_ids": torch.tensor(tokens + [0] * padding),
        "positions": torch.tensor(positions + [0] * padding),
        "rows": torch.tensor([rows[i] for i in order], dtype=torch.int64),
        "slots": torch.tensor(slots + [-1] * padding),
        "starts": torch.tensor(starts, dtype=torch.int32),
        "lengths": torch.tensor([track.done for track, _, _ in parts], dtype=torch.int32),
        "tables": _tables([track for track, _, _ in parts]),
        "kv": state,
    }
    if whole:
        inputs["reaches"] = torch.tensor(reaches + [0] * padding, dtype=torch.int32)
    (out,) = interpreter.run(inputs)
    for row, index in enumerate(order):
        track, position = wanted[index]
        track.rows.append((position, out[row]))


def _tables(tracks: Sequence[Track]) -> Tensor:
    """Block tables; beyond a track's blocks they name block 0, which nobody writes."""
    used = [track.blocks[: -(-track.done // BLOCK)] for track in tracks]
    longest = max(map(len, used))
    return torch.tensor([row + [0] * (longest - len(row)) for row in used], dtype=torch.int32)

"""Which capture runs a batch, and the sizes that it is padded to.

before:  the sizes of a batch, and the sizes that are captured
after:   a whole captured step, captured pieces with attention between them, or plain launches

A pure function: it sees numbers alone, never memory or a device.
"""

from __future__ import annotations

import enum
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .capture_plan import CapturePlan
from .executor import StepInputs


@dataclass(frozen=True, slots=True)
class BatchShape:
    """The sizes of a batch.

    Attributes:
        tokens: T, in all sequences together.
        rows: R, whose logits are wanted.
        sequences: S.
        blocks: P, in the longest table.
        longest_query: most tokens of one sequence.
    """

    tokens: int
    rows: int
    sequences: int
    blocks: int
    longest_query: int

    @classmethod
    def of(cls, inputs: StepInputs) -> BatchShape:
        """The sizes of a step's inputs."""
        return cls(
            tokens=len(inputs.token_ids),
            rows=len(inputs.rows),
            sequences=len(inputs.lengths),
            blocks=inputs.tables.shape[1],
            longest_query=int(np.diff(inputs.starts).max()),
        )

    @property
    def is_decode(self) -> bool:
        """Whether each sequence has one token, and all of them want logits."""
        return self.longest_query == 1 and self.tokens == self.sequences == self.rows

    @property
    def sizes(self) -> dict[str, int]:
        """Values of the symbols T, R, S and P."""
        return {"T": self.tokens, "R": self.rows, "S": self.sequences, "P": self.blocks}


class Mode(enum.Enum):
    """How a batch runs."""

    WHOLE = "whole"  # one graph of the whole step
    PIECES = "pieces"  # a graph for each captured piece, plain launches between them
    PLAIN = "plain"  # launch after launch


@dataclass(frozen=True, slots=True)
class Choice:
    """How a batch runs, and how large it is made for that.

    Attributes:
        mode: what runs it.
        sizes: T, R, S and P after padding; none is smaller than the batch's.
    """

    mode: Mode
    sizes: Mapping[str, int]


def dispatch(shape: BatchShape, captured: CapturePlan) -> Choice:
    """How a batch of this shape runs.

    Decodes take the smallest captured whole step that holds them: T = R = S, and tables as wide as
    they were captured. Any other batch takes pieces of the smallest captured T that holds it; R, S
    and P are the batch's own, since captured pieces depend on T alone and the others are launched
    plainly. What fits neither runs plainly at its own sizes.

    Usage: ``dispatch(BatchShape(5, 5, 5, 9, 1), captured).sizes["T"]``.
    """
    if shape.is_decode:
        size = _least(captured.decode_sizes, shape.sequences)
        if size and shape.blocks <= captured.columns_at(size):
            return Choice(Mode.WHOLE, captured.decode_sizes_at(size))
    size = _least(captured.piece_sizes, shape.tokens)
    if size:
        return Choice(Mode.PIECES, {**shape.sizes, "T": size})
    return Choice(Mode.PLAIN, shape.sizes)


def _least(sizes: Sequence[int], count: int) -> int:
    """The first of increasing ``sizes`` that holds ``count``; 0 if none does."""
    place = bisect_left(sizes, count)
    return sizes[place] if place < len(sizes) else 0

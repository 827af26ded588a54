"""A step's sequences: how many tokens each has, how many of them are new, where they lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Batch:
    """Sequences over pages.

    Attributes:
        queries: new tokens of each sequence.
        lengths: tokens of each sequence after the step.
        block: tokens of a page.
        padding: rows after the last sequence's.
    """

    queries: tuple[int, ...]
    lengths: tuple[int, ...]
    block: int
    padding: int = 0

    @property
    def tokens(self) -> int:
        """New tokens of all sequences."""
        return sum(self.queries)

    @property
    def sizes(self) -> dict[str, int]:
        """T, S and P of the step."""
        longest = max(self._blocks())
        return {"T": self.tokens + self.padding, "S": len(self.queries), "P": max(1, longest)}

    @property
    def num_blocks(self) -> int:
        """Pages of memory, some of which belong to nobody."""
        return sum(self._blocks()) + 3

    @property
    def pairs(self) -> int:
        """How many tokens the queries see, added up."""
        found = 0
        for count, length in zip(self.queries, self.lengths, strict=True):
            found += count * length - count * (count - 1) // 2
        return found

    def _blocks(self) -> list[int]:
        return [-(-length // self.block) for length in self.lengths]

    def tables(self, generator: torch.Generator, device: torch.device) -> Tensor:
        """Pages of each sequence, shuffled; in place of those it does not have one of nobody's."""
        shuffled = torch.randperm(self.num_blocks, generator=generator, device=device).int()
        rows = shuffled[-1].repeat(len(self.queries), self.sizes["P"])
        first = 0
        for row, count in zip(rows, self._blocks(), strict=True):
            row[:count] = shuffled[first : first + count]
            first += count
        return rows

    def starts(self, device: torch.device) -> Tensor:
        """Where each sequence's rows begin, and where the last one's end."""
        return _int32((0, *accumulate(self.queries)), device)

    def lengths_tensor(self, device: torch.device) -> Tensor:
        """Tokens of each sequence."""
        return _int32(self.lengths, device)

    def slots(self, tables: Tensor, sequence: int) -> Tensor:
        """Where each token of a sequence lies."""
        places = torch.arange(self.lengths[sequence], device=tables.device)
        blocks = tables[sequence].long()[places // self.block]
        return blocks * self.block + places % self.block


def prefill(tokens: int, block: int, *, context: int = 0) -> Batch:
    """One sequence, of which ``tokens`` are new."""
    return Batch((tokens,), (tokens + context,), block)


def decode(sequences: int, length: int, block: int) -> Batch:
    """Sequences of one length, each with one new token."""
    return Batch((1,) * sequences, (length,) * sequences, block)


def _int32(numbers: Sequence[int], device: torch.device) -> Tensor:
    return torch.tensor(list(numbers), dtype=torch.int32, device=device)

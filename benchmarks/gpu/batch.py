"""A step's sequences: how many tokens each has, how many of them are new, where they lie."""

from __future__ import annotations

from collections import Counter
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
        span: of each sequence, the positions from the first to before the last whose tokens see
            one another, such as an image's, or all that an encoder has; None if all see only what
            comes before them.
    """

    queries: tuple[int, ...]
    lengths: tuple[int, ...]
    block: int
    padding: int = 0
    span: tuple[int, int] | None = None

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
    def is_whole(self) -> bool:
        """Whether every token sees all of its sequence."""
        return self.span is not None and self.span[0] == 0 and self.span[1] >= max(self.lengths)

    def pairs(self, window: int = 0) -> int:
        """How many tokens the queries see, added up; in a window if it is not 0."""
        found = 0
        for (count, length), times in Counter(zip(self.queries, self.lengths, strict=True)).items():
            far = window or length
            for place in range(length - count, length):
                ahead = max(0, min(self._reach(place), length) - place - 1)
                found += times * (min(far, place + 1) + min(far - 1, ahead))
        return found

    def _reach(self, place: int) -> int:
        """How many tokens the one at ``place`` sees at least."""
        first, last = self.span or (0, 0)
        return last if first <= place < last else 0

    def reaches(self, device: torch.device) -> Tensor:
        """How many tokens each row sees at least; of padding, more than there are."""
        found: list[int] = []
        for count, length in zip(self.queries, self.lengths, strict=True):
            found += (self._reach(place) for place in range(length - count, length))
        return _int32(found + [1 << 30] * self.padding, device)

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


def encoder(sequences: int, length: int, block: int) -> Batch:
    """Whole sequences of one length, whose tokens all see one another."""
    return Batch((length,) * sequences, (length,) * sequences, block, span=(0, length))


def prefill(tokens: int, block: int, *, context: int = 0) -> Batch:
    """One sequence, of which ``tokens`` are new."""
    return Batch((tokens,), (tokens + context,), block)


def decode(sequences: int, length: int, block: int) -> Batch:
    """Sequences of one length, each with one new token."""
    return Batch((1,) * sequences, (length,) * sequences, block)


def _int32(numbers: Sequence[int], device: torch.device) -> Tensor:
    return torch.tensor(list(numbers), dtype=torch.int32, device=device)

"""What is captured on a GPU: at which sizes, what it costs, and why.

before:  what a step may hold, and the launches of a plan
after:   sizes of captured steps, smallest first, an estimate of each one's bytes, and sentences

Launching a kernel costs the host a few microseconds; a captured graph of many launches costs about
as much as one. A graph belongs to the sizes that it was captured at, so a batch is padded to the
next captured size; ``graphopt.runtime.dispatch`` decides which. Two kinds are captured: whole steps
of decodes, by the number of sequences, and the pieces between attention, by the number of tokens.

All graphs read the same inputs and compute in the same arena, which is as large as the largest step
needs anyway. So what a graph takes is what the driver keeps of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class CapturePlan:
    """Sizes of captured steps.

    Attributes:
        decode_sizes: increasing; a whole step is captured for so many sequences of one token each,
            with T = R = S.
        piece_sizes: increasing; pieces are captured for so many tokens T.
        piece_rows: R of captured pieces, as far as there are so many tokens: min(T, piece_rows).
        block_columns: P of captured whole steps, blocks in the longest table.
        decode_bytes: estimate of the memory that each of ``decode_sizes`` takes.
        piece_bytes: likewise of each of ``piece_sizes``, all its pieces together.
        reasons: a sentence for each choice.
    """

    decode_sizes: tuple[int, ...]
    piece_sizes: tuple[int, ...]
    piece_rows: int
    block_columns: int
    decode_bytes: tuple[int, ...]
    piece_bytes: tuple[int, ...]
    reasons: tuple[str, ...] = ()

    @property
    def total_bytes(self) -> int:
        """Estimate of the memory that all graphs take."""
        return sum(self.decode_bytes) + sum(self.piece_bytes)

    def keeping(
        self, decode_sizes: Iterable[int], piece_sizes: Iterable[int], reason: str
    ) -> CapturePlan:
        """The same plan with only these sizes, and ``reason`` said last."""
        decodes, pieces = set(decode_sizes), set(piece_sizes)
        kept = [pair for pair in self._decodes() if pair[0] in decodes]
        rest = [pair for pair in self._pieces() if pair[0] in pieces]
        return replace(
            self,
            decode_sizes=tuple(size for size, _ in kept),
            decode_bytes=tuple(nbytes for _, nbytes in kept),
            piece_sizes=tuple(size for size, _ in rest),
            piece_bytes=tuple(nbytes for _, nbytes in rest),
            reasons=(*self.reasons, reason),
        )

    def _decodes(self) -> Iterator[tuple[int, int]]:
        return zip(self.decode_sizes, self.decode_bytes, strict=True)

    def _pieces(self) -> Iterator[tuple[int, int]]:
        return zip(self.piece_sizes, self.piece_bytes, strict=True)


NOTHING_CAPTURED = CapturePlan((), (), 0, 0, (), ())

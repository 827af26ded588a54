"""What is captured on a GPU: at which sizes, what it costs, and why.

Launching a kernel costs the host a few microseconds; a captured graph of many launches costs about
as much as one. A graph belongs to the sizes that it was captured at, so a batch is padded to the
next captured size: ``dispatch`` decides which. Two kinds are captured: whole steps of decodes, by
the number of sequences, and the pieces between attention, by the number of tokens.
``capture_choice`` makes a plan; ``to_json`` and ``from_json`` are inverse.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from graphopt.errors import ArtifactError
from graphopt.json_values import text, whole

CAPTURES_SCHEMA = 1
# A graph holds the width of the tables that it was captured with, so they are copied to the device
# that wide in every step: at most so many entries, 512 KiB. Sequences that are many and long at
# once compute for long, and run in pieces.
MOST_TABLE_ENTRIES = 1 << 17
# Measured bytes that do not deserve a word more than was estimated.
_SURPRISE = 0.25


@dataclass(frozen=True, slots=True)
class CapturePlan:
    """Sizes of captured steps.

    Attributes:
        decode_sizes: increasing; a whole step is captured for so many sequences of one token each,
            with T = R = S.
        piece_sizes: increasing; pieces are captured for so many tokens T, which is all that they
            depend on: see ``capture_cost.is_captured``.
        block_columns: blocks in the longest table; see ``columns_at``.
        decode_bytes: the memory that each of ``decode_sizes`` takes; an estimate until it is
            captured.
        piece_bytes: likewise of each of ``piece_sizes``, all its pieces together.
        reasons: a sentence for each choice.
    """

    decode_sizes: tuple[int, ...]
    piece_sizes: tuple[int, ...]
    block_columns: int
    decode_bytes: tuple[int, ...]
    piece_bytes: tuple[int, ...]
    reasons: tuple[str, ...] = ()

    @property
    def total_bytes(self) -> int:
        """The memory that all graphs take."""
        return sum(self.decode_bytes) + sum(self.piece_bytes)

    def columns_at(self, sequences: int) -> int:
        """P of the whole step that is captured for so many sequences."""
        return columns_at(sequences, self.block_columns)

    def decode_sizes_at(self, sequences: int) -> dict[str, int]:
        """T, R, S and P of the whole step that is captured for so many sequences."""
        columns = self.columns_at(sequences)
        return {"T": sequences, "R": sequences, "S": sequences, "P": columns}

    def keeping(
        self, decode_sizes: Iterable[int], piece_sizes: Iterable[int], reason: str
    ) -> CapturePlan:
        """The same plan with only these sizes, and ``reason`` said last.

        Usage: ``captured.keeping(done, (), "GPU memory ran out at 64 sequences.")``.
        """
        wholes, pieces = set(decode_sizes), set(piece_sizes)
        kept = [(size, nbytes) for size, nbytes in self._decodes() if size in wholes]
        rest = [(size, nbytes) for size, nbytes in self._pieces() if size in pieces]
        return replace(
            self,
            decode_sizes=tuple(size for size, _ in kept),
            decode_bytes=tuple(nbytes for _, nbytes in kept),
            piece_sizes=tuple(size for size, _ in rest),
            piece_bytes=tuple(nbytes for _, nbytes in rest),
            reasons=(*self.reasons, reason),
        )

    def measured(
        self, decode_bytes: Mapping[int, int], piece_bytes: Mapping[int, int]
    ) -> CapturePlan:
        """The plan with what its graphs took, by size, and a sentence if it is much more.

        A size that was not measured keeps its estimate.
        """
        found = replace(
            self,
            decode_bytes=tuple(decode_bytes.get(size, nbytes) for size, nbytes in self._decodes()),
            piece_bytes=tuple(piece_bytes.get(size, nbytes) for size, nbytes in self._pieces()),
        )
        if found.total_bytes <= self.total_bytes * (1 + _SURPRISE):
            return found
        said = (
            f"The graphs took {found.total_bytes} bytes where {self.total_bytes} were expected; "
            "lower gpu_memory_utilization if memory runs out later."
        )
        return replace(found, reasons=(*self.reasons, said))

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "schema": CAPTURES_SCHEMA,
            "decode": [{"sequences": size, "bytes": nbytes} for size, nbytes in self._decodes()],
            "pieces": [{"tokens": size, "bytes": nbytes} for size, nbytes in self._pieces()],
            "block_columns": self.block_columns,
            "reasons": list(self.reasons),
        }

    @classmethod
    def from_json(cls, data: object) -> CapturePlan:
        """The plan that ``to_json`` wrote.

        Raises:
            ArtifactError: the data is no capture plan of this version.
        """
        if not isinstance(data, Mapping) or data.get("schema") != CAPTURES_SCHEMA:
            got = data.get("schema") if isinstance(data, Mapping) else type(data).__name__
            raise ArtifactError(
                "the capture plan has another schema", got=got, expected=CAPTURES_SCHEMA
            )
        try:
            return cls(
                _increasing(data["decode"], "sequences"),
                _increasing(data["pieces"], "tokens"),
                whole(data["block_columns"], 0),
                tuple(whole(row["bytes"], 0) for row in data["decode"]),
                tuple(whole(row["bytes"], 0) for row in data["pieces"]),
                tuple(text(one) for one in data["reasons"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ArtifactError(
                "the capture plan is not readable", got=repr(error)[:200]
            ) from error

    def _decodes(self) -> Iterator[tuple[int, int]]:
        return zip(self.decode_sizes, self.decode_bytes, strict=True)

    def _pieces(self) -> Iterator[tuple[int, int]]:
        return zip(self.piece_sizes, self.piece_bytes, strict=True)


NOTHING_CAPTURED = CapturePlan((), (), 0, (), ())


def columns_at(sequences: int, block_columns: int) -> int:
    """How wide the tables of a captured whole step are.

    Args:
        sequences: of the step.
        block_columns: blocks in the longest table that there can be.
    """
    return min(block_columns, max(1, MOST_TABLE_ENTRIES // sequences))


def _increasing(rows: list[Mapping[str, object]], name: str) -> tuple[int, ...]:
    sizes = tuple(whole(row[name], 1) for row in rows)
    if any(left >= right for left, right in pairwise(sizes)):
        raise ValueError(f"{name} do not increase: {sizes}")
    return sizes

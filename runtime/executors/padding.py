"""A step's inputs for a captured size: made larger by tokens that nobody sees.

A token of padding has no slot (-1), so nothing is written of it, and reaches nothing; where
sequences are padded, each has one such token and a context of none, and its logits are read by
nobody.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from graphopt.errors import UsageError

from ..executor import StepInputs

Number = TypeVar("Number", np.int32, np.int64)


def padded(inputs: StepInputs, sizes: Mapping[str, int]) -> StepInputs:
    """``inputs`` with T, R, S and P as in ``sizes``.

    Where tokens are padded and sequences are not, the added tokens belong to none.

    Raises:
        UsageError: a size is smaller than what is there, or there are more added sequences than
            added tokens.
    """
    tokens, sequences = len(inputs.token_ids), len(inputs.lengths)
    more = {
        "T": sizes["T"] - tokens,
        "R": sizes["R"] - len(inputs.rows),
        "S": sizes["S"] - sequences,
        "P": sizes["P"] - inputs.tables.shape[1],
    }
    if not any(more.values()):
        return inputs
    if min(more.values()) < 0 or more["S"] > more["T"]:
        raise UsageError(
            "a step does not fit the sizes that it is to be padded to",
            got=f"{tokens} tokens, {sequences} sequences",
            expected=f"at most {dict(sizes)}, and a token for each sequence that is added",
        )
    starts = _longer(inputs.starts, more["S"], 0)
    starts[sequences + 1 :] = inputs.starts[-1] + np.arange(1, more["S"] + 1)
    tables = np.zeros((sizes["S"], sizes["P"]), dtype=inputs.tables.dtype)
    tables[:sequences, : inputs.tables.shape[1]] = inputs.tables
    return StepInputs(
        token_ids=_longer(inputs.token_ids, more["T"], 0),
        positions=_longer(inputs.positions, more["T"], 0),
        rows=_longer(inputs.rows, more["R"], sizes["T"] - 1),
        slots=_longer(inputs.slots, more["T"], -1),
        starts=starts,
        lengths=_longer(inputs.lengths, more["S"], 0),
        tables=tables,
        reaches=None if inputs.reaches is None else _longer(inputs.reaches, more["T"], 0),
    )


def _longer(array: npt.NDArray[Number], more: int, value: int) -> npt.NDArray[Number]:
    """A copy with ``more`` numbers at its end; ``np.pad`` takes far longer for so few."""
    found = np.full(len(array) + more, value, dtype=array.dtype)
    found[: len(array)] = array
    return found

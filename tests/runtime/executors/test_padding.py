"""Padding adds tokens that write nothing, and leaves what is there as it was."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest

from graphopt.errors import UsageError
from graphopt.runtime.executor import StepInputs
from graphopt.runtime.executors.padding import padded


def step(counts: list[int], rows: int, blocks: int, *, embeds: bool = False) -> StepInputs:
    rng, tokens = np.random.default_rng(7), sum(counts)
    return StepInputs(
        token_ids=rng.integers(0, 99, tokens),
        positions=rng.integers(0, 99, tokens),
        rows=np.sort(rng.choice(tokens, rows, replace=False)),
        slots=rng.integers(0, 99, tokens),
        starts=np.cumsum([0, *counts]).astype(np.int32),
        lengths=rng.integers(1, 99, len(counts)).astype(np.int32),
        tables=rng.integers(0, 9, (len(counts), blocks)).astype(np.int32),
        reaches=rng.integers(1, 99, tokens).astype(np.int32) if embeds else None,
    )


@pytest.mark.parametrize("embeds", [False, True])
@pytest.mark.parametrize(
    ("counts", "rows", "blocks", "sizes"),
    [
        ([1, 1, 1], 3, 2, (8, 8, 8, 5)),
        ([1], 1, 1, (2, 2, 2, 1)),
        ([5, 1], 2, 3, (16, 2, 2, 3)),
        ([7], 0, 1, (8, 0, 1, 1)),
    ],
)
def test_what_is_there_stays(
    counts: list[int], rows: int, blocks: int, sizes: tuple[int, ...], embeds: bool
) -> None:
    given = step(counts, rows, blocks, embeds=embeds)
    found = padded(given, dict(zip("TRSP", sizes, strict=True)))
    tokens, sequences = sum(counts), len(counts)
    for field in fields(StepInputs):
        before, after = getattr(given, field.name), getattr(found, field.name)
        if before is None:
            assert after is None
            continue
        assert after.dtype == before.dtype
        place = tuple(slice(n) for n in before.shape)
        np.testing.assert_array_equal(after[place], before)
    assert (found.slots[tokens:] == -1).all(), "padding writes nothing"
    assert (found.lengths[sequences:] == 0).all()
    assert not embeds or (found.reaches[tokens:] == 0).all(), "padding sees nothing"
    assert (np.diff(found.starts)[sequences:] == 1).all()
    assert found.starts[-1] <= sizes[0]
    assert (found.rows < sizes[0]).all()
    shapes = (len(found.token_ids), len(found.rows), *found.tables.shape)
    assert shapes == sizes


def test_nothing_is_copied_where_nothing_is_padded() -> None:
    given = step([2, 1], 2, 1)
    assert padded(given, {"T": 3, "R": 2, "S": 2, "P": 1}) is given


@pytest.mark.parametrize("sizes", [(2, 2, 2, 1), (3, 1, 2, 1), (3, 2, 3, 1), (4, 2, 2, 0)])
def test_what_does_not_fit_is_refused(sizes: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match="does not fit the sizes"):
        padded(step([2, 1], 2, 1), dict(zip("TRSP", sizes, strict=True)))

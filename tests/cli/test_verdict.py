"""A report in words: the first comparison at fault is named."""

from __future__ import annotations

import dataclasses

import pytest

from graphopt.cli.verdict import cells, disagreement, rows, verdict_line
from tests.cli.test_verify import BAD, GOOD, LAYER, LOGITS, UNKNOWN


def test_rows_are_in_running_order() -> None:
    assert [row.name for row in rows(BAD)] == ["p0", "p1", "logits", "transformers"]
    assert [row.name for row in rows(GOOD)] == ["p0", "logits"]


def test_cells() -> None:
    assert cells(LAYER) == ("p1", "model.layers.0", "2.00e-03", "2.00e-07", "1.00e-05", "differs")
    assert cells(LOGITS)[-1] == "ok"
    assert cells(UNKNOWN)[2:] == ("nan", "2.00e-07", "1.00e-05", "differs")


def test_verdict_line() -> None:
    assert verdict_line(GOOD).startswith("agrees: 2 of 2 comparisons")
    assert verdict_line(BAD).startswith("differs: 2 of 4 comparisons")


@pytest.mark.parametrize(
    ("report", "where"),
    [
        (BAD, "p1 model.layers.0"),
        (dataclasses.replace(GOOD, reference=UNKNOWN), "transformers"),
    ],
)
def test_disagreement_names_the_first(report: object, where: str) -> None:
    error = disagreement(report)  # type: ignore[arg-type]
    assert error.where == where
    assert error.exit_code == 8

"""docs/operators.md says what the operator table says."""

from graphopt.ir.ops import OPS
from tools.operators_page import PAGE, page


def test_the_page_is_current() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run: python -m tools.operators_page"


def test_every_operator_has_a_row() -> None:
    rows = [line for line in page().splitlines() if line.startswith("| `")]
    assert [row.split("`")[1] for row in rows] == list(OPS)

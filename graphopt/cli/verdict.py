"""A verification report in words: one row a comparison, and the error for a disagreement."""

from __future__ import annotations

from typing import TYPE_CHECKING

from graphopt.errors import DisagreementError

if TYPE_CHECKING:
    from graphopt.runtime.executors.verification import Row, VerifyReport

COLUMNS = ("compared", "scope", "error", "rounding", "tolerance", "")


def rows(report: VerifyReport) -> list[Row]:
    """The comparisons in running order: steps, logits, transformers."""
    return [*report.steps, report.logits, *([report.reference] if report.reference else [])]


def cells(row: Row) -> tuple[str, ...]:
    """What the table shows of one comparison."""
    figures = (f"{figure:.2e}" for figure in (row.error, row.rounding, row.tolerance))
    return row.name, row.scope, *figures, "ok" if row.agrees else "differs"


def verdict_line(report: VerifyReport) -> str:
    """The report in one sentence."""
    count, size = len(rows(report)), f"{report.tokens} tokens in {report.dtype}"
    if report.agrees:
        return f"agrees: {count} of {count} comparisons over {size}"
    wrong = sum(not row.agrees for row in rows(report))
    return f"differs: {wrong} of {count} comparisons over {size}"


def disagreement(report: VerifyReport) -> DisagreementError:
    """The error that names the first comparison at fault."""
    first = next(row for row in rows(report) if not row.agrees)
    return DisagreementError(
        "the artifact differs from its reference by more than the tolerance",
        where=f"{first.name} {first.scope}".rstrip(),
        got=f"relative error {first.error:.2e}",
        expected=f"at most {first.tolerance:.2e}",
        next="what is before it agrees, so the error enters there",
    )

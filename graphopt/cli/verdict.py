"""A verification report in words: errors per piece, totals, and the error for a disagreement."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from graphopt.errors import DisagreementError

if TYPE_CHECKING:
    from graphopt.api import VerifyReport

COLUMNS = ("piece", "scope", "error", "tolerance", "")


def table(report: VerifyReport) -> Iterator[tuple[object, ...]]:
    """One row a piece."""
    for row in report.rows:
        verdict = "ok" if row.ok else "differs"
        yield row.name, row.scope, f"{row.error:.2e}", f"{row.tolerance:.0e}", verdict


def styles(report: VerifyReport) -> list[str]:
    """The colour of each row."""
    return ["" if row.ok else "red" for row in report.rows]


def totals(report: VerifyReport) -> Iterator[tuple[str, str]]:
    """The errors of the logits, and what they were computed from."""
    yield "logits", f"relative error {report.logits_error:.2e} against the interpreter"
    if report.reference_error is not None:
        yield "reference", f"relative error {report.reference_error:.2e} against transformers"
    yield "computed", f"{len(report.tokens)} tokens in {report.dtype}"
    yield "verdict", "agrees" if report.agrees else "differs"


def disagreement(report: VerifyReport) -> DisagreementError:
    """The error that names the first piece at fault."""
    first = next((row for row in report.rows if not row.ok), None)
    if first is None:
        return DisagreementError(
            "the logits differ from the reference by more than the tolerance",
            got=f"relative error {max(report.logits_error, report.reference_error or 0.0):.2e}",
        )
    return DisagreementError(
        "the artifact differs from the reference by more than the tolerance",
        where=f"piece {first.name} {first.scope}".rstrip(),
        got=f"relative error {first.error:.2e}",
        expected=f"at most {first.tolerance:.0e}",
        next="pieces before this one agree, so the error enters here",
    )

"""The program that is measured computes, and its figures are fractions of a limit."""

from __future__ import annotations

import pytest

from benchmarks.cpu_kernels import Bench, Case, Sample, figures, measure, table_of
from tests.codegen.cpp.native import ISAS


@pytest.mark.parametrize("isa", ISAS)
def test_limits_and_rates_are_positive(isa: str) -> None:
    bench = Bench.open(isa, threads=1, weights_bytes=1 << 22)
    assert bench.read() > 1e8
    assert bench.peak("float", steps=1000) > 1e8
    for kind in ("float", "bf16", "f16"):
        for rows in (1, 17):
            assert bench.seconds(Case(kind, rows, 40, 33, 2), 3) > 0


def test_a_case_counts_bytes_and_operations() -> None:
    case = Case("bf16", 2, 40, 33, 2)
    assert case.weight_bytes == 2 * 48 * 34 * 2
    assert case.operations == 2 * 2 * 2 * 40 * 33
    assert case.name == "bf16 2 x 33 x 2 x 40"


def test_only_steady_samples_count() -> None:
    samples = [Sample(50.0, (100.0, 90.0)), Sample(80.0, (100.0, 50.0))]
    row = figures(samples)
    assert row["best"] == 0.8
    assert row["samples"] == [50 / 95]
    table = table_of("title", {"case": row, "unsteady": figures(samples[1:])})
    assert table.row_count == 2


def test_every_round_has_every_case() -> None:
    seen: list[Case] = []

    def one(bench: Bench, case: Case) -> Sample:
        seen.append(case)
        return Sample(1.0, (2.0, 2.0))

    cases = [Case("bf16", rows, 16, 16) for rows in (1, 2)]
    bench = Bench.open(ISAS[-1], threads=1, weights_bytes=1 << 16)
    assert list(measure(bench, cases, one, 2)) == [case.name for case in cases]
    assert seen == [*cases, *cases]

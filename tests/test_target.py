"""Targets print as they are written; others are refused."""

import pytest

from graphopt.errors import UsageError
from graphopt.target import Target


@pytest.mark.parametrize("text", ["cpu", "cpu:avx512", "cpu:avx2", "cuda", "cuda:sm_90"])
def test_round_trip(text: str) -> None:
    assert str(Target.parse(text)) == text


@pytest.mark.parametrize(
    "text", ["", "gpu", "cpu:", "cuda:", "cpu:sm_90", "cuda:avx2", "cuda:sm_x", "cpu:avx2:3"]
)
def test_unknown_targets_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="unknown target"):
        Target.parse(text)

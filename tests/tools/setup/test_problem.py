"""A problem reads as one paragraph."""

from __future__ import annotations

from tools.setup.problem import Problem, SetupError


def test_rows_are_aligned_and_empty_ones_left_out() -> None:
    problem = Problem("it broke", got="one\ntwo", expected="", next="mend it")
    assert str(problem) == "it broke\n  got      one\n           two\n  next     mend it"
    assert str(SetupError(problem)) == str(problem)
    assert not SetupError(problem).of_this_python

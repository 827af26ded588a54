"""Errors print what, where, got, expected and next, and each kind has its exit code."""

import inspect

from graphopt import errors
from graphopt.errors import CapacityError, GraphoptError, RequestError


def test_text_has_only_the_rows_that_are_known() -> None:
    error = GraphoptError("it broke", where="layer 3", got=17, next="mend it")
    assert str(error) == "it broke\n  at       layer 3\n  got      17\n  next     mend it"
    assert str(GraphoptError("it broke")) == "it broke"


def test_rows_of_several_lines_are_indented() -> None:
    error = GraphoptError("it broke", got="a\nb", expected=0)
    lines = str(error).splitlines()
    assert [line.index(text) for line, text in zip(lines[1:], "ab0", strict=True)] == [11, 11, 11]


def test_every_kind_has_a_code_and_a_docstring() -> None:
    kinds = [
        kind
        for _, kind in inspect.getmembers(errors, inspect.isclass)
        if issubclass(kind, GraphoptError)
    ]
    assert len(kinds) > 10
    codes = (*range(1, 10), 70)  # 70 is a defect
    assert all(kind.__doc__ and kind.exit_code in codes for kind in kinds)
    assert issubclass(CapacityError, RequestError)

"""Values out of JSON: what is given back, and what is refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from graphopt.json_values import flag, text, whole, wholes


@pytest.mark.parametrize("value", [3, 7, 5])
def test_a_whole_number_of_the_range_is_given_back(value: int) -> None:
    assert whole(value, 3, 7) == value
    assert wholes([value, 3], 3, 7) == (value, 3)


@pytest.mark.parametrize("value", [2, 8, -3])
def test_a_number_out_of_range_is_a_value_error(value: int) -> None:
    with pytest.raises(ValueError, match="from 3 to 7"):
        whole(value, 3, 7)
    with pytest.raises(ValueError, match="from 3 to 7"):
        wholes([5, value], 3, 7)


@pytest.mark.parametrize("read", [whole, wholes, text])
@pytest.mark.parametrize("value", [True, None, 1.0, {}])
def test_another_type_is_a_type_error(read: Callable[[object], object], value: object) -> None:
    with pytest.raises(TypeError, match="is no"):
        read(value)


def test_numbers_beyond_what_a_file_format_holds_are_refused_without_being_asked() -> None:
    with pytest.raises(ValueError, match="from"):
        whole(2**63)


def test_text_and_flags() -> None:
    assert text("") == ""
    assert flag(False) is False
    with pytest.raises(TypeError, match="neither"):
        flag(1)

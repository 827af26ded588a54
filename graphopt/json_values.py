"""Values of a JSON document that somebody else wrote: of the right type and range, or an error.

``json`` gives whatever is in the file. A reader asks for what it expects with these, and turns
their ``TypeError`` and ``ValueError`` into an error that names the file.
"""

from __future__ import annotations

_MOST = 2**63 - 1


def whole(value: object, low: int = -_MOST, high: int = _MOST) -> int:
    """``value`` if it is a whole number of this range; JSON's true and false are not.

    Raises:
        TypeError: it is no integer.
        ValueError: it is out of range.
    """
    if type(value) is not int:
        raise TypeError(f"{value!r} is no whole number")
    if not low <= value <= high:
        raise ValueError(f"{value!r} is not from {low} to {high}")
    return value


def wholes(values: object, low: int = -_MOST, high: int = _MOST) -> tuple[int, ...]:
    """``values`` if they are a list of such numbers.

    Raises:
        TypeError: they are no list, or one is no integer.
        ValueError: one is out of range.
    """
    if not isinstance(values, list):
        raise TypeError(f"{values!r} is not a list")
    return tuple(whole(value, low, high) for value in values)


def text(value: object) -> str:
    """``value`` if it is a string.

    Raises:
        TypeError: it is something else.
    """
    if type(value) is not str:
        raise TypeError(f"{value!r} is not text")
    return value


def flag(value: object) -> bool:
    """``value`` if it is true or false.

    Raises:
        TypeError: it is neither.
    """
    if type(value) is not bool:
        raise TypeError(f"{value!r} is neither true nor false")
    return value

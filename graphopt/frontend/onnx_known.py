"""Tensors whose elements are known while a model is imported: numbers, and sizes that are not.

before:  Concat(Unsqueeze(Gather(Shape(x), 0)), [-1, 64])
after:   the sizes [N, -1, 64], so that a Reshape to them is a reshape with a shape

Exporters write the arithmetic of shapes as nodes. It is computed here, on expressions over named
sizes; what cannot be decided, such as whether a size is 1, stays in the graph.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from graphopt.ir.dtype import DType
from graphopt.ir.shape import Dim, Expr, dim_max, dim_min, lower_bound

# Elements up to which a tensor is looked at; shapes are short, tables of positions are not.
MAX_ELEMENTS = 4096
Element = bool | int | float | Expr


class Undecided(Exception):  # noqa: N818
    """What is asked depends on a size."""


@dataclass(frozen=True, slots=True)
class Known:
    """A tensor with known elements; ``array`` holds Python's numbers and expressions."""

    array: npt.NDArray[np.object_]
    dtype: DType

    @classmethod
    def of(cls, elements: object, dtype: DType) -> Known:
        """A tensor of nested lists, a number or an array."""
        if isinstance(elements, np.ndarray) and elements.dtype != object:
            elements = elements.tolist()
        return cls(_object_array(elements), dtype)

    @property
    def numbers(self) -> bool:
        """Whether no element is an expression."""
        return not any(isinstance(element, Expr) for element in self.array.flat)

    def dims(self) -> tuple[Dim, ...]:
        """Its elements as sizes."""
        return tuple(self.array.flat)  # type: ignore[arg-type]


def _object_array(elements: object) -> npt.NDArray[np.object_]:
    if isinstance(elements, np.ndarray):
        return elements
    if not isinstance(elements, list | tuple):
        single = np.empty((), object)
        single[()] = elements
        return single
    rows = [_object_array(element) for element in elements]
    return np.stack(rows) if rows else np.empty((0,), object)


def less(a: Element, b: Element) -> bool:
    """Whether ``a < b``.

    Raises:
        Undecided: it depends on a size.
    """
    if not isinstance(a, Expr) and not isinstance(b, Expr):
        return a < b
    above, below = _bound(b, a), _bound(a, b)
    if above is not None and above > 0:
        return True
    if below is not None and below >= 0:
        return False
    raise Undecided


def equal(a: Element, b: Element) -> bool:
    """Whether ``a == b``.

    Raises:
        Undecided: it depends on a size.
    """
    if not isinstance(a, Expr) and not isinstance(b, Expr):
        return a == b
    if a == b:
        return True
    for bound in (_bound(a, b), _bound(b, a)):
        if bound is not None and bound > 0:
            return False
    raise Undecided


def _bound(a: Element, b: Element) -> int | None:
    """What ``a - b`` is never below."""
    if isinstance(a, float) or isinstance(b, float):
        return None
    return lower_bound(a - b)


def _divide(a: Element, b: Element) -> Element:
    if isinstance(a, Expr) or isinstance(b, Expr):
        if isinstance(a, float) or isinstance(b, float) or (isinstance(b, int) and b <= 0):
            raise Undecided
        return a // b
    if b == 0:
        raise Undecided
    if isinstance(a, int) and isinstance(b, int):
        return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)
    return a / b


def _modulo(a: Element, b: Element) -> Element:
    if b == 0 or isinstance(a, float) or isinstance(b, float):
        raise Undecided
    return a % b


def _power(a: Element, b: Element) -> Element:
    if isinstance(a, Expr) or isinstance(b, Expr) or abs(a) > 1 << 31 or abs(b) > 64:
        raise Undecided
    return a**b


def _least(a: Element, b: Element) -> Element:
    if isinstance(a, Expr) or isinstance(b, Expr):
        if isinstance(a, float) or isinstance(b, float):
            raise Undecided
        return dim_min(a, b)
    return min(a, b)


def _greatest(a: Element, b: Element) -> Element:
    if isinstance(a, Expr) or isinstance(b, Expr):
        if isinstance(a, float) or isinstance(b, float):
            raise Undecided
        return dim_max(a, b)
    return max(a, b)


def _arithmetic(function: Callable[[Any, Any], Any]) -> Callable[[Element, Element], Element]:
    def checked(a: Element, b: Element) -> Element:
        if (isinstance(a, Expr) and isinstance(b, float)) or (
            isinstance(b, Expr) and isinstance(a, float)
        ):
            raise Undecided
        result: Element = function(a, b)
        return result

    return checked


def _function(function: Callable[[float], float]) -> Callable[[Element], Element]:
    def checked(a: Element) -> Element:
        if isinstance(a, Expr):
            raise Undecided
        return function(a)

    return checked


def _root(a: float) -> float:
    if a < 0:
        raise Undecided
    return math.sqrt(a)


def _inverse(a: float) -> float:
    if a == 0:
        raise Undecided
    return 1 / a


BINARY: Mapping[str, Callable[[Any, Any], Any]] = {
    "Add": _arithmetic(operator.add),
    "Sub": _arithmetic(operator.sub),
    "Mul": _arithmetic(operator.mul),
    "Div": _divide,
    "Mod": _modulo,
    "Pow": _power,
    "Min": _least,
    "Max": _greatest,
}
COMPARISONS: Mapping[str, Callable[[Any, Any], bool]] = {
    "Equal": equal,
    "Less": less,
    "Greater": lambda a, b: less(b, a),
    "LessOrEqual": lambda a, b: not less(b, a),
    "GreaterOrEqual": lambda a, b: not less(a, b),
    "And": lambda a, b: bool(a) and bool(b),
    "Or": lambda a, b: bool(a) or bool(b),
}
UNARY: Mapping[str, Callable[[Any], Any]] = {
    "Neg": operator.neg,
    "Not": operator.not_,
    "Abs": _function(abs),
    "Sqrt": _function(_root),
    "Reciprocal": _function(_inverse),
    "Floor": _function(math.floor),
    "Ceil": _function(math.ceil),
}


def each(function: Callable[..., Any], *operands: Known, dtype: DType) -> Known:
    """A function of each element, operands broadcast.

    Raises:
        Undecided: it depends on a size, or the operands do not fit.
    """
    try:
        arrays = np.broadcast_arrays(*(one.array for one in operands))
        if arrays[0].size > MAX_ELEMENTS:
            raise Undecided
        result = np.empty(arrays[0].shape, object)
        for place in np.ndindex(result.shape):
            value = function(*(array[place] for array in arrays))
            result[place] = float(value) if dtype.is_float else value
    except (ValueError, TypeError, OverflowError, ZeroDivisionError) as error:
        raise Undecided from error
    return Known(result, dtype)


def cast(x: Known, dtype: DType) -> Known:
    """The elements as another type.

    Raises:
        Undecided: a size becomes a truth value, or a fraction.
    """

    def convert(element: Element) -> Element:
        if isinstance(element, Expr):
            if dtype.is_int:
                return element
            raise Undecided
        if dtype is DType.BOOL:
            return bool(element)
        return float(element) if dtype.is_float else int(element)

    return each(convert, x, dtype=dtype)


def joined(parts: Sequence[Known], axis: int) -> Known:
    """Tensors one after the other."""
    return Known(np.concatenate([part.array for part in parts], axis), parts[0].dtype)

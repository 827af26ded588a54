"""How large a chat template may make its values: checked before they are made.

A time limit cannot stop one operation that takes all memory, such as ``'a'|center(10 ** 10)``. So
every operation that makes a value larger than what it got is asked first how large that will be.
What an operation yields counts against one allowance, too: many values are as bad as a large one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import wraps
from typing import Any

import jinja2
import jinja2.runtime
from jinja2.exceptions import SecurityError

MAX_VALUE_CHARS = 16 << 20
MAX_ALL_CHARS = 1 << 30
MAX_WIDTH = 10_000
_MAX_POWER_BITS = 4096
_ITEM_CHARS = 8  # an item of a list takes as much memory as these, whatever it is
# Methods of text and filters whose whole numbers are widths or counts.
_WIDE_METHODS = frozenset(("center", "expandtabs", "ljust", "rjust", "zfill"))
_WIDE_FILTERS = frozenset(("batch", "center", "indent", "slice", "tojson", "truncate", "wordwrap"))
# A conversion such as ``%08.3f``, a field such as ``{:>8}``, and the numbers in either.
_PERCENT = re.compile(r"%(?:\([^)]*\))?[-#0 +]*[\d*]*(?:\.[\d*]*)?")
_FIELD = re.compile(r"\{[^{}]*:[^{}]*[{}]")
_NUMBER = re.compile(r"\d+")

Charge = Callable[[int], None]


def chars(value: object) -> int:
    """About how many characters ``value`` has as text; counting stops beyond the limit."""
    total, stack = 0, [value]
    while stack and total <= MAX_VALUE_CHARS:
        item = stack.pop()
        if isinstance(item, str | bytes):
            total += len(item) + 1
        elif isinstance(item, Mapping | list | tuple):
            total += _ITEM_CHARS * len(item) + 1
            if total <= MAX_VALUE_CHARS:
                stack += item
                stack += item.values() if isinstance(item, Mapping) else ()
        else:
            total += item.bit_length() // 3 + 1 if isinstance(item, int) else 1
    return total


def demand(size: int, most: int = MAX_VALUE_CHARS) -> None:
    """Refuse a value of ``size``.

    Raises:
        SecurityError: it is larger than ``most``.
    """
    if size > most:
        raise SecurityError(f"a value of size {size} is too large")


def check_operator(operator: str, left: Any, right: Any) -> None:
    """Refuse ``left operator right`` if its result would be huge.

    Raises:
        SecurityError: it would.
    """
    if operator == "+":
        if not isinstance(left, int | float):
            demand(chars(left) + chars(right))
    elif operator == "*":
        for items, times in ((left, right), (right, left)):
            if isinstance(items, str | list | tuple) and isinstance(times, int):
                demand(chars(items) * times)
        if isinstance(left, int) and isinstance(right, int):
            demand(left.bit_length() + right.bit_length(), _MAX_POWER_BITS)
    elif operator == "%":
        if isinstance(left, str):
            _check_form(left, right)
    elif isinstance(left, int) and isinstance(right, int):
        demand(left.bit_length() * right, _MAX_POWER_BITS)


def check_method(method: Any, arguments: Sequence[Any], named: Mapping[str, Any]) -> None:
    """Refuse a call of one of text's own methods if its result would be huge.

    Raises:
        SecurityError: it would.
    """
    method = getattr(method, "__wrapped__", method)  # the sandbox wraps ``format``
    text = getattr(method, "__self__", None)
    if not isinstance(text, str):
        return
    given = [*arguments, *named.values()]
    name = method.__name__
    if name in _WIDE_METHODS:
        _check_widths(given)
    elif name in ("format", "format_map"):
        _check_form(text, given, _FIELD)
    elif name == "join":
        items = list(given[0]) if given and isinstance(given[0], Sequence) else given
        demand(len(text) * len(items) + chars(items))
    elif name in ("replace", "translate"):
        demand((len(text) + 1) * max([1, *map(chars, given)]))


def guarded(name: str, function: Callable[..., Any], charge_of: Callable[[Any], Charge]) -> Any:
    """The filter ``function`` with its arguments checked and its result counted.

    Args:
        name: of the filter.
        function: with the marks that jinja2 puts on those that want a context.
        charge_of: gives the allowance of the rendering that a context belongs to.
    """
    passed = str(getattr(function, "jinja_pass_arg", ""))

    # A filter with a context is not computed when the template is compiled, where nothing limits.
    @jinja2.pass_context
    @wraps(function)
    def checked(context: jinja2.runtime.Context, *given: Any, **named: Any) -> Any:
        charge = charge_of(context)
        values = [*given, *named.values()]
        size = sum(map(chars, values))
        demand(size)
        if name in _WIDE_FILTERS:
            _check_widths(values[1:])
        if name in ("indent", "join", "replace", "wordwrap"):
            demand(_product(values))
        if name == "format":
            _check_form(str(values[0]), values[1:])
        first: dict[str, tuple[Any, ...]] = {
            "_PassArg.context": (context,),
            "_PassArg.eval_context": (context.eval_ctx,),
            "_PassArg.environment": (context.environment,),
        }
        result = function(*first.get(passed, ()), *given, **named)
        if isinstance(result, Iterator):
            return _counted(result, charge)
        charge(chars(result))
        return result

    return checked


def _counted(items: Iterator[Any], charge: Charge) -> Iterator[Any]:
    total = 0
    for item in items:
        size = chars(item)
        total += size
        demand(total)
        charge(size)
        yield item


def _product(values: Sequence[Any]) -> int:
    """Bound of what repeating the arguments at each place of the value gives, in characters."""
    value, *others = values
    items = list(value) if isinstance(value, Sequence) else [value]
    most = max((chars(other) for other in others if isinstance(other, str)), default=1)
    return chars(value) + (len(items) + 1) * most


def _check_widths(values: Sequence[Any]) -> None:
    for value in values:
        if isinstance(value, int) and abs(value) > MAX_WIDTH:
            raise SecurityError(f"a width or count of {value} is too large")


def _check_form(form: str, values: Any, fields: re.Pattern[str] = _PERCENT) -> None:
    """Refuse a format whose widths are large, or are themselves arguments."""
    found = fields.findall(form)
    if any("*" in field or field.endswith("{") for field in found):
        raise SecurityError("a format with a width among its arguments")
    _check_widths([int(number[:20]) for field in found for number in _NUMBER.findall(field)])
    places = form.count("{") + form.count("%") + 1
    demand(len(form) + places * chars(values))

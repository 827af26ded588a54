"""What the patterns of spelled-out functions share: constants, products in any order, casts around.

scaled(x, 0.5)                     x * 0.5, or x / 2
product([x, y, z], constant=0.5)   the four factors, multiplied in any order
power(x, 3)                        pow(x, 3), or x * x * x in any order
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

from graphopt.ir.builder import Rewriter
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Attr as AttrValue
from graphopt.ir.graph import Value
from graphopt.ledger import Verdict, accept, refuse

from .match import Attr, Match, Pattern, Var, either, op
from .rules import RewriteRule
from .typed import dtype_of

# Sources write constants with 9 digits or more.
_DIGITS = 1e-7


def near(number: float) -> Attr:
    """An attribute that is this number but for its last digits."""
    return Attr(
        f"near {number:g}",
        lambda found: isinstance(found, float) and math.isclose(found, number, rel_tol=_DIGITS),
        f"{number:g}",
    )


def scaled(x: Pattern, factor: float) -> Pattern:
    """X times a number."""
    return either(op.mul(x, scalar=near(factor)), op.div(x, scalar=near(1 / factor), reverse=False))


def product(factors: Sequence[Pattern], constant: float | None = None) -> Pattern:
    """Factors, and a constant if one is given, multiplied in any order."""
    options = [] if constant is None else [scaled(product(factors), constant)]
    if len(factors) > 1:
        for left, right in _splits(factors):
            options.append(op.mul(product(left, constant), product(right)))
            if constant is not None:
                options.append(op.mul(product(left), product(right, constant)))
    return either(*options) if options else factors[0]


def _splits(factors: Sequence[Pattern]) -> Iterator[tuple[list[Pattern], list[Pattern]]]:
    """The ways to share factors out on two sides, neither empty; the first is on the left."""
    first, *others = factors
    for bits in range(2 ** len(others) - 1):
        left = [factor for i, factor in enumerate(others) if bits >> i & 1]
        right = [factor for i, factor in enumerate(others) if not bits >> i & 1]
        yield [first, *left], right


def power(x: Pattern, exponent: int) -> Pattern:
    """X to a small power."""
    raised = op.pow(x, scalar=float(exponent), reverse=False)
    lower = [product([power(x, exponent - 1), x])] if exponent > 2 else [op.mul(x, x)]
    return either(raised, *lower)


def wide(x: Pattern) -> Pattern:
    """X cast to the type in which a function is computed."""
    return op.cast(x, dtype=Attr("wide"))


def narrow(x: Pattern) -> Pattern:
    """A result cast back."""
    return op.cast(x, dtype=Attr("narrow"))


def computes_wide(m: Match, x: Value) -> Verdict:
    """Whether the type in which a function of ``x`` is computed, if it is another, is no poorer.

    An integer would cut fractions off, and a narrower type rounds what the operator does not.
    """
    own = dtype_of(x)
    if "wide" in m and own is not None:
        wider: DType = m["wide"]
        if not wider.is_float or not own.is_float or wider.nbytes < max(4, own.nbytes):
            return refuse(f"{x} is {x.type}, and what is made of it is computed in {wider}", x)
    return accept()


class ActivationRule(RewriteRule):
    """Makes one operator of a function of one value that is written out.

    Args:
        name: the rule's name.
        form: the function's pattern, from that of its argument.
        raised: the operator.
        attrs: its attributes.
        between_casts: whether the function is computed in a wider type between two casts, which
            the operator does by itself.
    """

    def __init__(
        self,
        name: str,
        form: Callable[[Pattern], Pattern],
        raised: str,
        attrs: Mapping[str, AttrValue],
        *,
        between_casts: bool,
    ) -> None:
        self._name = name
        self._form = form
        self._raised = raised
        self._attrs = dict(attrs)
        self._between_casts = between_casts

    @property
    def name(self) -> str:
        """The name it was given."""
        return self._name

    def pattern(self, x: Var) -> Pattern:
        """The function of x."""
        return narrow(self._form(wide(x))) if self._between_casts else self._form(x)

    def near(self, needed: int) -> int:
        """A product with a sigmoid or a tanh may well be something else."""
        return max(3, super().near(needed))

    def check(self, m: Match) -> Verdict:
        """It keeps the type of its argument."""
        if m.root.output.type != m.x.type:
            return refuse(f"of {m.x.type} it makes {m.root.output.type}", m.x, m.root.output)
        return computes_wide(m, m.x)

    def rewrite(self, m: Match, new: Rewriter) -> Value:
        """The operator."""
        return new.one(self._raised, [m.x], self._attrs, loc=m.loc)


def activation_rules(
    name: str,
    forms: Sequence[Callable[[Pattern], Pattern]],
    raised: str,
    attrs: Mapping[str, AttrValue] | None = None,
) -> tuple[ActivationRule, ...]:
    """Rules for a function's spellings, those between casts first."""
    return tuple(
        ActivationRule(name, form, raised, attrs or {}, between_casts=between_casts)
        for between_casts in (True, False)
        for form in forms
    )

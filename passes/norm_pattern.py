"""What the norms' patterns are made of: a value over the root of a mean of squares.

    over_root(x, mean(square(x)))     x * rsqrt(mean(x * x) + eps), and its other spellings

Attributes that a match then holds: ``dims`` and ``keepdim`` of the mean, ``count`` if it is a sum
over a number, ``eps`` if any is added.
"""

from __future__ import annotations

from collections.abc import Sequence

from graphopt.ir.graph import Value
from graphopt.ir.types import TensorType, Type
from graphopt.ledger import Verdict, accept, refuse

from .match import Attr, Match, Pattern, either, op
from .spelling import computes_wide

EPS = Attr("eps", lambda e: isinstance(e, float) and e >= 0, "a number that is not negative")


# Any will do for the pattern, so that a wrong one is refused with its reason.
_AXES = {"dims": Attr("dims"), "keepdim": Attr("keepdim")}


def mean(x: Pattern) -> Pattern:
    """The mean of x, or its sum over a number."""
    return either(
        op.mean(x, **_AXES), op.div(op.sum(x, **_AXES), scalar=Attr("count"), reverse=False)
    )


def variance(x: Pattern) -> Pattern:
    """The mean squared distance of x from its mean, as one operator."""
    return op.var(x, **_AXES, correction=0)


def square(x: Pattern) -> Pattern:
    """X times itself."""
    return either(op.pow(x, scalar=2.0, reverse=False), op.mul(x, x))


def over_root(x: Pattern, moment: Pattern) -> Pattern:
    """X over the square root of a mean of squares, to which a small number may be added."""
    sure = either(op.add(moment, scalar=EPS), moment)
    root = either(op.sqrt(sure), op.pow(sure, scalar=0.5, reverse=False))
    inverse = either(
        op.rsqrt(sure),
        op.pow(sure, scalar=-0.5, reverse=False),
        op.reciprocal(root),
        op.div(root, scalar=1.0, reverse=True),
    )
    return either(op.mul(x, inverse), op.div(x, root))


def normalizes_rows(m: Match, parameters: Sequence[str]) -> Verdict:
    """Whether a match is a norm of ``m.x`` over its last dimension, and keeps its type.

    Args:
        m: what matched.
        parameters: the variables that stand for a weight or a bias, where the match has them.
    """
    x, result = m.x.type, m.root.output
    if not isinstance(x, TensorType) or not x.dtype.is_float or not x.shape:
        return refuse(f"what is normalized is {x}", m.x)
    if m["dims"] != (len(x.shape) - 1,):
        return refuse(f"the mean is over dimensions {m['dims']} of {x}, not the last one", m.x)
    if not m["keepdim"]:
        return refuse("the mean drops its dimension, so rows meet columns", m.x)
    if "count" in m and m["count"] != x.shape[-1]:
        return refuse(f"the sum over {x.shape[-1]} elements is divided by {m['count']}", m.x)
    if not (wide := computes_wide(m, m.x)).accepted:
        return wide
    if result.type != x:
        return refuse(f"the norm of {x} is {result.type}", result)
    for name in (name for name in parameters if name in m):
        value = m.values[name]
        if value.type != TensorType(x.dtype, x.shape[-1:]):
            return refuse(f"{name} is {value.type}, not a row of {x}", value)
    if shared := _shared(m, x):
        return refuse("the normalized value is read elsewhere too", *shared)
    return accept()


def _shared(m: Match, x: Type) -> tuple[Value, ...]:
    """Values of x's shape that something outside reads, apart from x and its cast."""
    casts = [node.output for node in m.nodes if node.op == "cast" and node.inputs[0] is m.x]
    shape = x.shape if isinstance(x, TensorType) else ()
    return tuple(
        value
        for value in m.used_outside(but=casts)
        if isinstance(value.type, TensorType) and value.type.shape == shape
    )

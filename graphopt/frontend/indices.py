"""Indices that may be negative, which PyTorch counts from the end and the IR does not.

before:  x[%i]                                      (%i may hold -1, the last entry)
after:   index_select(%x, remainder(%i, size))      (or %i alone, where it cannot be negative)
"""

from __future__ import annotations

from graphopt.ir.graph import Node, Value
from graphopt.ir.shape import Dim, Expr

from .emitter import Emitter, type_of

# Operators whose result holds elements of their first operand and nothing else.
_MOVES = frozenset(
    [
        "reshape",
        "permute",
        "expand",
        "slice",
        "select",
        "split",
        "index_select",
        "gather",
        "flip",
        "roll",
        "repeat_interleave",
        "amax",
        "amin",
    ]
)
# Operators whose result is nowhere negative if their operands are nowhere negative.
_KEEPS = frozenset(["add", "mul", "floor_div", "concat", "sum", "cumsum", "minimum", "maximum"])
_STEP_INPUTS = ("token_ids", "positions", "rows")


def counted_from_front(emit: Emitter, index: Value, size: Dim) -> Value:
    """``index``, integers of any shape, with -1 as the last of ``size`` entries, and so on."""
    if never_negative(emit, index):
        return index
    return emit.one("remainder", [index], {"scalar": size})


def never_negative(emit: Emitter, value: Value) -> bool:
    """Whether no element of ``value`` can be negative, as far as its making shows."""
    known = emit.known.get(value)
    if known:
        return min(known) >= 0
    node = emit.made_by(value)
    if node is None:
        return value.name in _STEP_INPUTS and not value.is_weight
    return _made_so(emit, node, value)


def _made_so(emit: Emitter, node: Node, value: Value) -> bool:
    if node.op in ("argmax", "one_hot") or (node.op in ("topk", "sort") and value != node.output):
        return True
    if node.op in _MOVES or node.op in ("topk", "sort"):
        return never_negative(emit, node.inputs[0])
    if node.op == "cast":
        before, after = type_of(node.inputs[0]).dtype, type_of(value).dtype
        fits = not before.is_float and before.nbytes <= after.nbytes
        return fits and (not before.is_int or never_negative(emit, node.inputs[0]))
    if node.op in _KEEPS:
        scalar = node.attrs.get("scalar", 0)
        return _at_least_zero(scalar) and all(never_negative(emit, x) for x in node.inputs)
    if node.op == "remainder" and len(node.inputs) == 1 and not node.attrs.get("reverse"):
        return _at_least_zero(node.attrs["scalar"])
    if node.op == "clamp":
        return _at_least_zero(node.attrs["min"]) or never_negative(emit, node.inputs[0])
    if node.op == "full":
        return _at_least_zero(node.attrs["value"])
    return node.op == "iota" and all(_at_least_zero(node.attrs[name]) for name in ("start", "step"))


def _at_least_zero(number: object) -> bool:
    """Whether an attribute is a number, or a size, that is not negative."""
    if isinstance(number, Expr):
        return False
    return isinstance(number, bool | int | float) and number >= 0

"""One element of a pointwise node's output, as an expression that code generators print.

The text is Python's: ``a``, ``b``, ``c`` are elements of the node's inputs in order, numbers are
literals (``inf``, ``nan`` by name), operators are ``+ - * / == != < <= > >= & | and or``, and calls
are those in ``FUNCTIONS``. It is computed in float32 or better (float64 for f64, the operand's own
type for integers) and rounded once to the node's element type.

    scalar_expression("mul", {"scalar": 2.0, "reverse": False})      # "a * 2.0"
    scalar_expression("gelu", {"approximate": "none"})               # "0.5 * a * (1.0 + erf(...))"
"""

from __future__ import annotations

import ast
import math
from collections.abc import Mapping
from types import MappingProxyType

from graphopt.errors import VerifyError

from .dtype import DType
from .graph import Attr
from .ops import OPS
from .ops_spec import Attrs
from .shape import Expr

# The functions that expressions call, and what they mean.
FUNCTIONS: Mapping[str, str] = MappingProxyType(
    {
        "abs": "the absolute value",
        "sqrt": "the square root",
        "rsqrt": "one over the square root",
        "exp": "e to the power",
        "log": "the natural logarithm",
        "log1p": "log(1 + x), exact near 0",
        "expm1": "exp(x) - 1, exact near 0",
        "sin": "the sine",
        "cos": "the cosine",
        "tan": "the tangent",
        "tanh": "the hyperbolic tangent",
        "erf": "the error function",
        "floor": "the greatest integer not above",
        "ceil": "the least integer not below",
        "round": "the nearest integer, halves to even",
        "maximum": "the greater; NaN if either is",
        "minimum": "the smaller; NaN if either is",
        "pow": "the first to the power of the second",
        "remainder": "what floor_div leaves; has the divisor's sign",
        "floor_div": "the quotient, rounded down",
        "where": "the second where the first is true, else the third",
        "cast": "the first in the element type that the second names",
        "size": "the value of a size expression, given as a string",
    }
)


def scalar_expression(op: str, attrs: Attrs) -> str:
    """The expression of a pointwise node, its attributes filled in.

    Args:
        op: a pointwise operator: one whose row in the table has ``scalar``.
        attrs: the node's attributes, complete.

    Raises:
        VerifyError: the operator is not pointwise.
    """
    spec = OPS.get(op)
    if spec is None or spec.scalar is None:
        raise VerifyError(
            f"operator {op!r} is not pointwise", expected="one with a scalar expression"
        )
    filled: dict[str, ast.expr] = {
        name: _literal(attr) for name, attr in attrs.items() if name not in ("scalar", "reverse")
    }
    if "scalar" in attrs:
        filled["b"] = _literal(attrs["scalar"])
        if attrs.get("reverse"):
            filled = {"a": filled["b"], "b": ast.Name("a", ast.Load())}
    tree = ast.parse(spec.scalar, mode="eval")
    return ast.unparse(ast.fix_missing_locations(_Fill(filled).visit(tree.body)))


def _literal(attr: Attr) -> ast.expr:
    match attr:
        case DType():
            return ast.Name(attr.value, ast.Load())
        case Expr():
            return ast.Call(ast.Name("size", ast.Load()), [ast.Constant(str(attr))], [])
        case bool() | None | str():
            return ast.Constant(attr)
        case int() | float():
            number: ast.expr = ast.Constant(abs(attr))
            if not math.isfinite(attr):
                number = ast.Name("nan" if math.isnan(attr) else "inf", ast.Load())
            return ast.UnaryOp(ast.USub(), number) if str(attr).startswith("-") else number
    raise VerifyError("an attribute has no place in an expression", got=repr(attr))


class _Fill(ast.NodeTransformer):
    """Puts attributes in the place of their names, and takes the branches that they decide."""

    def __init__(self, filled: Mapping[str, ast.expr]) -> None:
        self.filled = filled

    def visit_Name(self, node: ast.Name) -> ast.expr:
        """An attribute's value, or the operand or function as it is."""
        return self.filled.get(node.id, node)

    def visit_Call(self, node: ast.Call) -> ast.expr:
        """A call with its arguments filled in; functions may be called as attributes are."""
        args = [self.visit(argument) for argument in node.args]
        return ast.Call(node.func, args, [])

    def visit_IfExp(self, node: ast.IfExp) -> ast.expr:
        """The branch that the attributes decide."""
        chosen: ast.expr = self.visit(node.body if self._holds(node.test) else node.orelse)
        return chosen

    def _holds(self, test: ast.expr) -> bool:
        match test:
            case ast.Compare(left=ast.Name(id=name), ops=[ast.Eq()], comparators=[right]):
                return ast.dump(self.filled[name]) == ast.dump(right)
            case ast.Compare(left=ast.Name(id=name), ops=[ast.IsNot()]):
                value = self.filled[name]
                return not (isinstance(value, ast.Constant) and value.value is None)
        raise VerifyError("a scalar expression has a condition that attributes do not decide")

"""The scalar expressions of pointwise operators in Triton, on tiles.

before:  ``a / (1.0 + exp(-a))``, the text of ``graphopt.ir.ops_scalar``, and operands as text
after:   ``x / (1.0 + tl.exp(-x))``

Floats are computed in f32, integers in i64, bool in i1. Python binds comparisons looser than ``&``
and ``|``, which are also what bool is combined with.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from graphopt.ir.dtype import DType
from graphopt.ir.shape import Dim, Expr

from ..rows import expression
from ..rows.tree import Kind, RefusedError, kind_of

# How tightly an operator binds.
_COMPARE, _OR, _AND, _SUM, _PRODUCT, _SIGN, _ATOM = range(1, 8)
_OPERATORS: Mapping[type[ast.AST], tuple[str, int]] = {
    ast.Or: ("|", _OR),
    ast.BitOr: ("|", _OR),
    ast.And: ("&", _AND),
    ast.BitAnd: ("&", _AND),
    ast.Eq: ("==", _COMPARE),
    ast.NotEq: ("!=", _COMPARE),
    ast.Lt: ("<", _COMPARE),
    ast.LtE: ("<=", _COMPARE),
    ast.Gt: (">", _COMPARE),
    ast.GtE: (">=", _COMPARE),
    ast.Add: ("+", _SUM),
    ast.Sub: ("-", _SUM),
    ast.Mult: ("*", _PRODUCT),
    ast.Div: ("/", _PRODUCT),
}
# What a function of the expressions is called on a tile of floats.
FUNCTIONS: Mapping[str, str] = {
    "abs": "tl.abs({})",
    "sqrt": "tl.sqrt({})",
    "rsqrt": "tl.rsqrt({})",
    "square": "square({})",
    "cube": "cube({})",
    "exp": "tl.exp({})",
    "log": "tl.log({})",
    "log1p": "libdevice.log1p({})",
    "expm1": "libdevice.expm1({})",
    "sin": "tl.sin({})",
    "cos": "tl.cos({})",
    "tan": "libdevice.tan({})",
    "tanh": "libdevice.tanh({})",
    "erf": "tl.erf({})",
    "floor": "tl.floor({})",
    "ceil": "tl.ceil({})",
    "round": "libdevice.rint({})",
    "maximum": "tl.maximum({}, {}, propagate_nan=tl.PropagateNan.ALL)",
    "minimum": "tl.minimum({}, {}, propagate_nan=tl.PropagateNan.ALL)",
    "pow": "libdevice.pow({}, {})",
    "remainder": "remainder({}, {})",
    "floor_div": "floor_div({}, {})",
    "ordered": "ordered({})",
    "unordered": "unordered({})",
    "upper": "upper({})",
}
# What a function gives, where that is another kind than it takes.
_KINDS: Mapping[str, Kind] = {"ordered": "int", "unordered": "float"}
# The same of integers, where it is another.
_WHOLE_FUNCTIONS: Mapping[str, str] = {
    "maximum": "tl.maximum({}, {})",
    "minimum": "tl.minimum({}, {})",
    "remainder": "whole_remainder({}, {})",
    "floor_div": "whole_floor_div({}, {})",
    "floor": "{}",
    "ceil": "{}",
    "round": "{}",
}
# What a cast gives before it is computed with again.
TYPES: Mapping[DType, str] = {
    DType.F32: "tl.float32",
    DType.BF16: "tl.bfloat16",
    DType.F16: "tl.float16",
    DType.F8E4M3: "tl.float8e4nv",
    DType.F8E5M2: "tl.float8e5",
    DType.I64: "tl.int64",
    DType.I32: "tl.int32",
    DType.I16: "tl.int16",
    DType.I8: "tl.int8",
    DType.U8: "tl.uint8",
    DType.BOOL: "tl.int1",
}
WIDE: Mapping[Kind, str] = {"float": "tl.float32", "int": "tl.int64", "bool": "tl.int1"}


@dataclass(frozen=True, slots=True)
class Term(expression.Term):
    """A piece of Triton that has a value.

    Attributes:
        is_number: whether it is a literal, not a tile.
    """

    level: int = _ATOM
    is_number: bool = False

    @property
    def factor(self) -> str:
        """The text as an operand of a product."""
        return self.within(_PRODUCT)


def literal(value: bool | int | float | Expr, kind: Kind) -> Term:
    """A number of a kind."""
    if isinstance(value, Expr):
        text = dim_text(value)
        return Term(f"({text})", kind, is_number=True)
    if kind == "float":
        number = float(value)
        if not math.isfinite(number):
            sign = "-" if number < 0 else ""
            text = f'{sign}float("{"nan" if math.isnan(number) else "inf"}")'
        else:
            text = repr(number)
    else:
        text = str(bool(value) if kind == "bool" else int(value))
    return Term(text, kind, _SIGN if text.startswith("-") else _ATOM, is_number=True)


def dim_text(dim: Dim) -> str:
    """A size, of the sizes that the kernel is given."""
    return expression.dim_text(dim, lambda name: name, _function)


def _function(name: str, args: Sequence[str]) -> str:
    if name not in ("min", "max"):
        left, right = args
        return f"(({left}) {name} ({right}))"
    text, *others = args
    for other in others:
        text = f"tl.{name}imum({text}, {other})"
    return text


def triton_expression(scalar: str, operands: Mapping[str, Term], dtype: DType) -> Term:
    """A scalar expression in Triton.

    Args:
        scalar: from ``scalar_expression``.
        operands: what its names ``a``, ``b``, ``c`` are.
        dtype: the element type of the result, to which integers wrap.
    """
    result = _Printer(operands).term(ast.parse(scalar, mode="eval").body)
    if result.kind == "int" and dtype.is_int and dtype is not DType.I64 and not result.is_number:
        return Term(f"{result.within(_ATOM)}.to({TYPES[dtype]}).to(tl.int64)", "int")
    return result


class _Printer(expression.Printer[Term]):
    """Prints Triton."""

    operators = _OPERATORS
    sign = _SIGN

    def literal(self, value: bool | int | float | Expr, kind: Kind) -> Term:
        """A number of a kind."""
        return literal(value, kind)

    def joined(self, text: str, kind: Kind, level: int, parts: Sequence[Term]) -> Term:
        """A number if all parts are."""
        is_number = bool(parts) and all(part.is_number for part in parts)
        return Term(text, kind, level, is_number)

    def opposite(self, mask: Term) -> Term:
        """What is true where ``mask`` is not."""
        return Term(f"{mask.within(_SUM)} == 0", "bool", _COMPARE)

    def applied(self, name: str, args: Sequence[Term]) -> Term:
        """A function of Triton, or of functions.jinja."""
        kind, form = args[0].kind, FUNCTIONS[name]
        if kind == "int":
            if name == "pow":
                return self.whole_power(*args)
            form = _WHOLE_FUNCTIONS.get(name, form)
        return Term(form.format(*(arg.text for arg in args)), _KINDS.get(name, kind))

    def whole_power(self, base: Term, exponent: Term) -> Term:
        """A power of integers: a product of as many factors as it says."""
        if not exponent.is_number or not exponent.text.isdecimal():
            raise RefusedError("integers are raised to powers that vary or divide")
        if exponent.text == "0":
            return Term(f"{base.factor} * 0 + 1", "int", _SUM)
        return Term(f"whole_pow({base.text}, {exponent.text})", "int")

    def where(self, condition: Term, a: Term, b: Term) -> Term:
        """``a`` where the condition holds, else ``b``."""
        kind: Kind = "float" if "float" in (a.kind, b.kind) else a.kind
        return Term(f"tl.where({condition.text}, {a.text}, {b.text})", kind)

    def cast(self, value: Term, dtype: DType) -> Term:
        """A number as another type, rounded if that is a narrower float."""
        kind = kind_of(dtype)
        if value.is_number:
            return Term(value.text, kind, value.level, is_number=True)
        if kind == "bool":
            if value.kind == "bool":
                return value
            return Term(f"{value.within(_SUM)} != 0", "bool", _COMPARE)
        text = value.within(_ATOM)
        if value.kind != kind:
            text += f".to({WIDE[kind]})"
        if kind == "float" and dtype is not DType.F32:
            text += f".to({TYPES[dtype]}).to(tl.float32)"
        if text == value.within(_ATOM):
            return value
        return Term(text, kind)  # a narrower integer wraps, as every result does

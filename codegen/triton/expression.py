"""The scalar expressions of pointwise operators in Triton, on tiles.

before:  ``a / (1.0 + exp(-a))``, the text of ``graphopt.ir.ops_scalar``, and operands as text
after:   ``x / (1.0 + tl.exp(-x))``

Floats are computed in f32, integers in i64, bool in i1. Python binds comparisons looser than ``&``
and ``|``, which are also what bool is combined with.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Mapping
from dataclasses import dataclass

from graphopt.ir.dtype import DType
from graphopt.ir.shape import Dim, Expr, Symbol, parse_dim

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
# Of bool, arithmetic is logic.
_LOGIC: Mapping[str, type[ast.AST]] = {
    "+": ast.Or,
    "|": ast.Or,
    "maximum": ast.Or,
    "*": ast.And,
    "&": ast.And,
    "minimum": ast.And,
}
# What a function of the expressions is called on a tile of floats.
FUNCTIONS: Mapping[str, str] = {
    "abs": "tl.abs({})",
    "sqrt": "tl.sqrt({})",
    "rsqrt": "tl.rsqrt({})",
    "square": "square({})",
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
class Term:
    """A piece of Triton that has a value.

    Attributes:
        text: the expression.
        kind: what it computes with.
        is_number: whether it is a literal, not a tile.
        level: how tightly its outermost operator binds.
    """

    text: str
    kind: Kind
    is_number: bool = False
    level: int = _ATOM

    def within(self, level: int) -> str:
        """The text as an operand of an operator that binds so tightly."""
        return self.text if self.level >= level else f"({self.text})"

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
        return Term(text, kind, True, _SIGN if text.startswith("-") else _ATOM)
    if kind == "bool":
        return Term("True" if value else "False", kind, True)
    text = str(int(value))
    return Term(text, kind, True, _SIGN if text.startswith("-") else _ATOM)


def dim_text(dim: Dim) -> str:
    """A size, of the sizes that the kernel is given."""
    if isinstance(dim, int):
        return str(dim)
    terms = []
    for monomial, coefficient in dim.terms:
        factors = [str(coefficient)] if coefficient != 1 or not monomial else []
        for atom in monomial:
            if isinstance(atom, Symbol):
                factors.append(atom.name)
            elif atom.kind in ("min", "max"):
                text = dim_text(atom.args[0])
                for arg in atom.args[1:]:
                    text = f"tl.{atom.kind}imum({text}, {dim_text(arg)})"
                factors.append(text)
            else:
                left, right = (f"({dim_text(arg)})" for arg in atom.args)
                factors.append(f"({left} {atom.kind} {right})")
        terms.append(" * ".join(factors))
    return " + ".join(terms)


def triton_expression(scalar: str, operands: Mapping[str, Term], dtype: DType) -> Term:
    """A scalar expression in Triton.

    Args:
        scalar: from ``scalar_expression``.
        operands: what its names ``a``, ``b``, ``c`` are.
        dtype: the element type of the result, to which integers wrap.
    """
    tree = ast.parse(scalar, mode="eval").body
    result = _Printer(operands).term(tree)
    if result.kind == "int" and dtype.is_int and dtype is not DType.I64 and not result.is_number:
        return Term(f"{result.within(_ATOM)}.to({TYPES[dtype]}).to(tl.int64)", "int")
    return result


class _Printer:
    """Turns one expression into text."""

    def __init__(self, operands: Mapping[str, Term]) -> None:
        self.operands = operands
        main = operands["b"] if "c" in operands else next(iter(operands.values()))
        self.kind: Kind = main.kind  # of numbers that stand in the expression

    def term(self, node: ast.expr) -> Term:
        """The Triton of one node."""
        match node:
            case ast.Name(id="inf"):
                return literal(math.inf, "float")
            case ast.Name(id="nan"):
                return literal(math.nan, "float")
            case ast.Name(id=name):
                return self.operands[name]
            case ast.Constant(value=bool() | int() | float() as value):
                return literal(value, self.kind)
            case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)):
                return literal(-value, self.kind)
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                inner = self.term(operand)
                return Term(f"-{inner.within(_SIGN)}", inner.kind, inner.is_number, _SIGN)
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return self.opposite(self.term(operand))
            case ast.BinOp(left=left, op=op, right=right):
                return self.binary(type(op), self.term(left), self.term(right))
            case ast.BoolOp(op=op, values=[left, right]):
                return self.binary(type(op), self.term(left), self.term(right))
            case ast.Compare(left=left, ops=[op], comparators=[right]):
                return self.compare(type(op), left, right)
            case ast.Call(func=ast.Name(id=name), args=args):
                return self.call(name, args)
        raise NotImplementedError(ast.dump(node))

    def binary(self, op: type[ast.AST], left: Term, right: Term) -> Term:
        """An arithmetic, bitwise or logical operation."""
        text, level = _OPERATORS[op]
        if left.kind == "bool" and text in _LOGIC:
            text, level = _OPERATORS[_LOGIC[text]]
        both = left.is_number and right.is_number
        return Term(
            f"{left.within(level)} {text} {right.within(level + 1)}", left.kind, both, level
        )

    def compare(self, op: type[ast.AST], left: ast.expr, right: ast.expr) -> Term:
        """A comparison; of a bool with zero, itself or its opposite."""
        a = self.term(left)
        if a.kind == "bool" and isinstance(right, ast.Constant) and right.value in (0, 1):
            same = (op is ast.NotEq) != bool(right.value)
            if op in (ast.NotEq, ast.Eq):
                return a if same else self.opposite(a)
        text, level = _OPERATORS[op]
        b = self.term(right)
        return Term(f"{a.within(level + 1)} {text} {b.within(level + 1)}", "bool", False, level)

    def opposite(self, mask: Term) -> Term:
        """What is true where ``mask`` is not."""
        return Term(f"{mask.within(_SUM)} == 0", "bool", False, _COMPARE)

    def call(self, name: str, args: list[ast.expr]) -> Term:
        """A call of one of the functions that expressions may call."""
        if name == "cast":
            return self.cast(self.term(args[0]), args[1])
        if name == "size":
            text = ast.literal_eval(args[0])
            return literal(parse_dim(text), self.kind)
        terms = [self.term(arg) for arg in args]
        if name == "where":
            return self.where(*terms)
        if terms[0].kind == "bool" and name in _LOGIC:
            return self.binary(_LOGIC[name], *terms)
        if name == "pow" and (found := self.power(terms[0], args[1])) is not None:
            return found
        if name == "pow" and terms[0].kind == "int":
            return self.whole_power(terms[0], terms[1])
        form = FUNCTIONS[name]
        if terms[0].kind == "int":
            form = _WHOLE_FUNCTIONS.get(name, form)
        kind = _KINDS.get(name, terms[0].kind)
        return Term(form.format(*(term.text for term in terms)), kind)

    def whole_power(self, base: Term, exponent: Term) -> Term:
        """A power of integers: a product of as many factors as it says."""
        if not exponent.is_number or not exponent.text.isdecimal():
            raise RefusedError("integers are raised to powers that vary or divide")
        if exponent.text == "0":
            return Term(f"{base.within(_PRODUCT)} * 0 + 1", "int", False, _SUM)
        return Term(f"whole_pow({base.text}, {exponent.text})", "int")

    def power(self, base: Term, exponent: ast.expr) -> Term | None:
        """A power that is a product or a root."""
        if base.kind != "float" or not isinstance(exponent, ast.Constant):
            return None
        forms: Mapping[object, str] = {0.5: "tl.sqrt({})", 2.0: "square({})", 3.0: "cube({})"}
        form = forms.get(exponent.value)
        return Term(form.format(base.text), "float") if form else None

    def where(self, condition: Term, a: Term, b: Term) -> Term:
        """``a`` where the condition holds, else ``b``."""
        kind: Kind = "float" if "float" in (a.kind, b.kind) else a.kind
        return Term(f"tl.where({condition.text}, {a.text}, {b.text})", kind)

    def cast(self, value: Term, target: ast.expr) -> Term:
        """A number as another type, rounded if that is a narrower float."""
        dtype = DType(target.id) if isinstance(target, ast.Name) else DType.F32
        kind = kind_of(dtype)
        if value.is_number:
            return Term(value.text, kind, True, value.level)
        if kind == "bool":
            if value.kind == "bool":
                return value
            return Term(f"{value.within(_SUM)} != 0", "bool", False, _COMPARE)
        text = value.within(_ATOM)
        if value.kind != kind:
            text += f".to({WIDE[kind]})"
        if kind == "float" and dtype is not DType.F32:
            text += f".to({TYPES[dtype]}).to(tl.float32)"
        if text == value.within(_ATOM):
            return value
        return Term(text, kind)  # a narrower integer wraps, as every result does

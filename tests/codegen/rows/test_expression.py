"""What all languages have in common, in one that Python can compute."""

from __future__ import annotations

import ast
import math
from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphopt.codegen.rows.expression import Printer, Term, dim_text
from graphopt.codegen.rows.tree import Kind
from graphopt.ir.dtype import DType
from graphopt.ir.ops_scalar import scalar_expression
from graphopt.ir.shape import Expr, dim_max, sym

T, S = sym("T"), sym("S")
# As Python binds them; the loosest first.
_LEVELS = (("or",), ("and",), ("==", "!=", "<", "<=", ">", ">="), ("|",), ("&",), "+-", "*/")
NAMES: Mapping[type[ast.AST], str] = {
    ast.Or: "or", ast.And: "and", ast.BitOr: "|", ast.BitAnd: "&", ast.Add: "+", ast.Sub: "-",
    ast.Mult: "*", ast.Div: "/", ast.Eq: "==", ast.NotEq: "!=", ast.Lt: "<", ast.LtE: "<=",
    ast.Gt: ">", ast.GtE: ">=",
}  # fmt: skip
SIGN, ATOM = 8, 9
FUNCTIONS = {
    "sqrt": math.sqrt,
    "square": lambda x: x * x,
    "cube": lambda x: x * x * x,
    "pow": math.pow,
    "exp": math.exp,
    "erf": math.erf,
    "tanh": math.tanh,
    "maximum": max,
    "minimum": min,
    "abs": abs,
}


def _level(name: str) -> int:
    return next(place for place, names in enumerate(_LEVELS, 1) if name in names)


OPERATORS: Mapping[type[ast.AST], tuple[str, int]] = {
    node: (name, _level(name)) for node, name in NAMES.items()
}


class Python(Printer[Term]):
    """Prints what Python computes; functions are called what they are."""

    operators = OPERATORS
    sign = SIGN

    def literal(self, value: bool | int | float | Expr, kind: Kind) -> Term:
        if isinstance(value, Expr):
            return Term(f"({dim_text(value, str, lambda name, args: name)})", kind, ATOM)
        text = repr({"float": float, "int": int, "bool": bool}[kind](value))
        text = text if math.isfinite(value) else f"float('{text}')"
        return Term(text, kind, SIGN if text.startswith("-") else ATOM)

    def joined(self, text: str, kind: Kind, level: int, parts: Sequence[Term]) -> Term:
        return Term(text, kind, level)

    def opposite(self, mask: Term) -> Term:
        return Term(f"(not {mask.text})", "bool", ATOM)

    def applied(self, name: str, args: Sequence[Term]) -> Term:
        return Term(f"{name}({', '.join(arg.text for arg in args)})", args[0].kind, ATOM)

    def where(self, condition: Term, a: Term, b: Term) -> Term:
        return Term(f"({a.text} if {condition.text} else {b.text})", a.kind, ATOM)

    def cast(self, value: Term, dtype: DType) -> Term:
        return Term(f"cast_{dtype}({value.text})", value.kind, ATOM)


def printed(scalar: str, **kinds: Kind) -> Term:
    operands = {name: Term(name, kind, ATOM) for name, kind in kinds.items()}
    return Python(operands).term(ast.parse(scalar, mode="eval").body)


def computed(text: str, values: Mapping[str, object]) -> object:
    return eval(text, {"__builtins__": {"float": float}, **FUNCTIONS, **values})  # noqa: S307


@pytest.mark.parametrize(
    ("scalar", "kinds", "text"),
    [
        ("(a + b) * a", {"a": "float", "b": "float"}, "(a + b) * a"),
        ("a - (b - a)", {"a": "float", "b": "float"}, "a - (b - a)"),
        ("-(a * 2)", {"a": "float"}, "-(a * 2.0)"),
        ("-(-a)", {"a": "int"}, "-(-a)"),
        ("pow(a, 2.0)", {"a": "float"}, "square(a)"),
        ("pow(a, 2)", {"a": "int"}, "pow(a, 2)"),
        ("pow(a, 1.5)", {"a": "float"}, "pow(a, 1.5)"),
        ("a + b", {"a": "bool", "b": "bool"}, "a or b"),
        ("a * b | a", {"a": "bool", "b": "bool"}, "a and b or a"),
        ("maximum(a, b)", {"a": "bool", "b": "bool"}, "a or b"),
        ("maximum(a, b)", {"a": "int", "b": "int"}, "maximum(a, b)"),
        ("a == 0", {"a": "bool"}, "(not a)"),
        ("a != 1", {"a": "bool"}, "(not a)"),
        ("a == 1", {"a": "bool"}, "a"),
        ("a == 0", {"a": "int"}, "a == 0"),
        ("(a < b) == (b < a)", {"a": "float", "b": "float"}, "(a < b) == (b < a)"),
        ("where(a, b, 1)", {"a": "bool", "b": "float", "c": "float"}, "(b if a else 1.0)"),
        ("cast(a, bf16)", {"a": "float"}, "cast_bf16(a)"),
        ("a * size('T * S + 1')", {"a": "float"}, "a * (S * T + 1)"),
        ("a * -inf", {"a": "float"}, "a * -float('inf')"),
    ],
)
def test_text(scalar: str, kinds: Mapping[str, Kind], text: str) -> None:
    assert printed(scalar, **kinds).text == text


def test_numbers_are_of_the_kind_of_what_they_stand_beside() -> None:
    assert printed("a + 1", a="float").text == "a + 1.0"
    assert printed("a + 1", a="int").text == "a + 1"
    # Of a choice it is what is chosen from, not the condition.
    assert printed("where(a, b, 0)", a="bool", b="int", c="int").text == "(b if a else 0)"


_OPERATIONS = ("+", "-", "*")
_leaves = st.sampled_from(["a", "b", "2.0", "-3.0", "0.5"])
_scalars = st.recursive(
    _leaves,
    lambda inner: st.one_of(
        st.builds("({}) {} ({})".format, inner, st.sampled_from(_OPERATIONS), inner),
        st.builds("-({})".format, inner),
        st.builds("{}({}, {})".format, st.sampled_from(["maximum", "minimum"]), inner, inner),
        st.builds("where(({}) {} ({}), {}, {})".format, inner, st.sampled_from(["<", ">="]),
                  inner, inner, inner),
    ),
    max_leaves=12,
)  # fmt: skip


@given(_scalars, st.integers(-4, 4), st.integers(-4, 4))
def test_what_is_printed_is_the_same_number(scalar: str, a: int, b: int) -> None:
    def where(condition: bool, one: float, other: float) -> float:
        return one if condition else other

    values = {"a": float(a), "b": float(b)}
    wanted = computed(scalar, {**values, "where": where})
    assert computed(printed(scalar, a="float", b="float").text, values) == wanted


@pytest.mark.parametrize("approximate", ["none", "tanh", "sigmoid"])
def test_an_operators_expression(approximate: str) -> None:
    scalar = scalar_expression("gelu", {"approximate": approximate})
    for x in (-2.0, 0.0, 0.3, 5.0):
        found = computed(printed(scalar, a="float").text, {"a": x})
        assert found == pytest.approx(x / 2 * (1 + math.erf(x / math.sqrt(2))), abs=2e-2)


def test_sizes() -> None:
    def text(name: str, args: Sequence[str]) -> str:
        return f"{name}[{', '.join(args)}]"

    assert dim_text(7, str.lower, text) == "7"
    assert dim_text(2 * T * S + 3, str.lower, text) == "2 * s * t + 3"
    assert dim_text(dim_max(T, 4) * 3, str.lower, text) == "3 * max[t, 4]"
    assert dim_text((T + 1) // 2, str.lower, text) == "//[t + 1, 2]"


def test_what_is_no_expression_is_said() -> None:
    with pytest.raises(NotImplementedError, match="Lambda"):
        printed("lambda: a", a="float")

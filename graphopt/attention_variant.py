"""Attention as a user writes it: Python functions of a score and of positions, traced to text.

    from graphopt.attention_variant import attention, exp, where

    variant = attention(
        score=lambda score, q, k, head, sequence: score - 0.5 ** (head + 1) * (q - k),
        mask=lambda q, k, head, sequence: (q - k < 256) | (k < 4),
    )

``score`` replaces each score, after scaling, softcap and ALiBi; ``mask`` says which keys a query
sees, of those that causality and the layer's window leave. Both are called once, with symbols that
record what is done to them, and become expressions in the attributes of the graph's ``attention``
nodes (``graphopt.ir.ops_scores``), which every backend computes or refuses. ``q`` and ``k`` are
positions in a sequence, ``head`` is the number of the query's head and ``sequence`` the number of
the sequence in a step; all are floats.
"""

from __future__ import annotations

import ast
import linecache
from collections.abc import Callable, Collection
from dataclasses import dataclass
from types import TracebackType
from typing import Any, NoReturn

from graphopt.errors import UsageError
from graphopt.ir.builder import Rewriter, rewrite_nodes
from graphopt.ir.graph import Attr, Graph, Node
from graphopt.ir.ops_scores import MASK_NAMES, MAX_DEPTH, SCORE_NAMES, Kind, parse_score
from graphopt.ir.ops_spec import int_of

# More than this in an expression comes from a loop that went wrong.
MAX_NODES = 1000
# What tracing a user's function may raise, besides what symbols do.
_FAILURES = (
    ArithmeticError,
    AttributeError,
    LookupError,
    NameError,
    RuntimeError,
    TypeError,
    ValueError,
)


@dataclass(frozen=True, slots=True)
class AttentionVariant:
    """What is done to scores; made by :func:`attention`.

    Attributes:
        score: the expression that replaces a score; empty if it stays.
        mask: the expression that is true where a query sees a key; empty if it sees all.
    """

    score: str = ""
    mask: str = ""


def attention(
    *,
    score: Callable[..., Any] | None = None,
    mask: Callable[..., Any] | None = None,
) -> AttentionVariant:
    """Trace functions into a variant of attention.

    Args:
        score: of ``(score, q, k, head, sequence)``; gives the new score.
        mask: of ``(q, k, head, sequence)``; gives a condition.

    Raises:
        UsageError: a function does what cannot be traced; the error shows its line.
    """
    return AttentionVariant(
        "" if score is None else _traced(score, SCORE_NAMES, "float"),
        "" if mask is None else _traced(mask, MASK_NAMES, "bool"),
    )


def with_variant(
    graph: Graph, variant: AttentionVariant, layers: Collection[int] | None = None
) -> Graph:
    """``graph`` with the variant in its attention, of some layers or of all.

    Raises:
        UsageError: there is no such layer, or its attention has a variant already.
    """
    found = {int_of(node.attrs, "layer") for node in graph.nodes_named("attention")}
    missing = sorted(set(layers or ()) - found)
    if missing or not found:
        raise UsageError(
            "the model has no such attention",
            got=f"layers {', '.join(map(str, missing))}" if missing else f"graph @{graph.name}",
            expected=f"layers {', '.join(map(str, sorted(found)))}" if found else "some attention",
        )

    def visit(rewriter: Rewriter, node: Node) -> bool:
        if node.op != "attention":
            return False
        if layers is not None and int_of(node.attrs, "layer") not in layers:
            return False
        if "score" in node.attrs or "mask" in node.attrs:
            raise UsageError(
                f"layer {node.attrs['layer']} has a variant of attention already",
                got=variant,
                next="write one function that does both",
            )
        new: dict[str, Attr] = {"score": variant.score, "mask": variant.mask}
        attrs = {**node.attrs, **{name: text for name, text in new.items() if text}}
        inputs = [rewriter.value(value) for value in node.inputs]
        rewriter.replace(node.output, rewriter.one("attention", inputs, attrs, loc=node.loc))
        return True

    return rewrite_nodes(graph, visit)


# ---- Symbols ------------------------------------------------------------------------------------


class _UntraceableError(TypeError):
    """What a symbol raises; becomes a UsageError that shows the user's line."""

    def __init__(self, what: str, next: str) -> None:
        super().__init__(what)
        self.next = next


class Symbol:
    """A number or a condition that is not known yet, and how it is computed."""

    __slots__ = ("depth", "kind", "size", "tree")
    __array_ufunc__ = None  # so that numpy's functions refuse it instead of taking it apart

    def __init__(self, tree: ast.expr, kind: Kind, *parts: Symbol) -> None:
        self.tree = tree
        self.kind = kind
        self.size: int = 1 + sum(part.size for part in parts)
        self.depth: int = 1 + max((part.depth for part in parts), default=0)
        if self.size > MAX_NODES or self.depth > MAX_DEPTH:
            raise _UntraceableError("the expression grows too long", "repeat less in it")

    def __repr__(self) -> str:
        return ast.unparse(self.tree)

    def __add__(self, other: object) -> Symbol:
        return _arithmetic(ast.Add(), self, other)

    def __radd__(self, other: object) -> Symbol:
        return _arithmetic(ast.Add(), other, self)

    def __sub__(self, other: object) -> Symbol:
        return _arithmetic(ast.Sub(), self, other)

    def __rsub__(self, other: object) -> Symbol:
        return _arithmetic(ast.Sub(), other, self)

    def __mul__(self, other: object) -> Symbol:
        return _arithmetic(ast.Mult(), self, other)

    def __rmul__(self, other: object) -> Symbol:
        return _arithmetic(ast.Mult(), other, self)

    def __truediv__(self, other: object) -> Symbol:
        return _arithmetic(ast.Div(), self, other)

    def __rtruediv__(self, other: object) -> Symbol:
        return _arithmetic(ast.Div(), other, self)

    def __floordiv__(self, other: object) -> Symbol:
        return _call("floor_div", self, other)

    def __rfloordiv__(self, other: object) -> Symbol:
        return _call("floor_div", other, self)

    def __mod__(self, other: object) -> Symbol:
        return _call("remainder", self, other)

    def __rmod__(self, other: object) -> Symbol:
        return _call("remainder", other, self)

    def __pow__(self, other: object) -> Symbol:
        return _call("pow", self, other)

    def __rpow__(self, other: object) -> Symbol:
        return _call("pow", other, self)

    def __neg__(self) -> Symbol:
        number = _number(self)
        return Symbol(ast.UnaryOp(ast.USub(), number.tree), "float", number)

    def __pos__(self) -> Symbol:
        return _number(self)

    def __abs__(self) -> Symbol:
        return _call("abs", self)

    def __eq__(self, other: object) -> Symbol:  # type: ignore[override]
        return _comparison(ast.Eq(), self, other)

    def __ne__(self, other: object) -> Symbol:  # type: ignore[override]
        return _comparison(ast.NotEq(), self, other)

    def __lt__(self, other: object) -> Symbol:
        return _comparison(ast.Lt(), self, other)

    def __le__(self, other: object) -> Symbol:
        return _comparison(ast.LtE(), self, other)

    def __gt__(self, other: object) -> Symbol:
        return _comparison(ast.Gt(), self, other)

    def __ge__(self, other: object) -> Symbol:
        return _comparison(ast.GtE(), self, other)

    def __and__(self, other: object) -> Symbol:
        return _logic(ast.BitAnd(), self, other)

    def __rand__(self, other: object) -> Symbol:
        return _logic(ast.BitAnd(), other, self)

    def __or__(self, other: object) -> Symbol:
        return _logic(ast.BitOr(), self, other)

    def __ror__(self, other: object) -> Symbol:
        return _logic(ast.BitOr(), other, self)

    def __invert__(self) -> Symbol:
        condition = _condition(self)
        tree = ast.Compare(condition.tree, [ast.Eq()], [ast.Constant(0)])
        return Symbol(tree, "bool", condition)

    __hash__ = None  # type: ignore[assignment]

    def __bool__(self) -> NoReturn:
        raise _UntraceableError(
            "whether a symbol is true is not known yet",
            "use where(condition, a, b) for if, & | ~ for and, or, not, minimum and maximum for "
            "min and max, and two comparisons joined by & for a chain",
        )

    def __float__(self) -> NoReturn:
        raise _UntraceableError(
            "the number that a symbol stands for is not known yet",
            "use the functions of graphopt.attention_variant, such as exp and tanh",
        )

    __int__ = __index__ = __float__

    def __iter__(self) -> NoReturn:
        raise _UntraceableError("a symbol is one number", "write it without a loop over it")


def _symbol(value: object) -> Symbol:
    if isinstance(value, Symbol):
        return value
    if isinstance(value, bool):
        raise _UntraceableError(
            "a constant condition in an expression", "write the expression without it"
        )
    if not isinstance(value, int | float):
        raise _UntraceableError(
            f"{type(value).__name__} in an expression", "use numbers and the arguments only"
        )
    number = float(value)
    if number != number or number in (float("inf"), float("-inf")):
        tree: ast.expr = ast.Name("nan" if number != number else "inf", ast.Load())
    else:
        tree = ast.Constant(abs(number))
    return Symbol(ast.UnaryOp(ast.USub(), tree) if number < 0 else tree, "float")


def _number(value: object) -> Symbol:
    """``value`` as a number: 1 where a condition is true, else 0."""
    symbol = _symbol(value)
    return symbol if symbol.kind == "float" else where(symbol, 1.0, 0.0)


def _condition(value: object) -> Symbol:
    symbol = _symbol(value)
    if symbol.kind != "bool":
        raise _UntraceableError("a number where a condition belongs", "compare it, as in x != 0")
    return symbol


def _arithmetic(op: ast.operator, a: object, b: object) -> Symbol:
    left, right = _number(a), _number(b)
    return Symbol(ast.BinOp(left.tree, op, right.tree), "float", left, right)


def _comparison(op: ast.cmpop, a: object, b: object) -> Symbol:
    left, right = _number(a), _number(b)
    tree = ast.Compare(left.tree, [op], [right.tree])
    return Symbol(tree, "bool", left, right)


def _logic(op: ast.operator, a: object, b: object) -> Symbol:
    left, right = _condition(a), _condition(b)
    return Symbol(ast.BinOp(left.tree, op, right.tree), "bool", left, right)


def _call(name: str, *args: object) -> Symbol:
    symbols = [_number(arg) for arg in args]
    tree = ast.Call(ast.Name(name, ast.Load()), [symbol.tree for symbol in symbols], [])
    return Symbol(tree, "float", *symbols)


# ---- Functions that expressions may call --------------------------------------------------------


def where(condition: object, a: object, b: object) -> Symbol:
    """``a`` where the condition holds, else ``b``; both are conditions, or numbers."""
    test = _condition(condition)
    if isinstance(a, Symbol) and isinstance(b, Symbol) and a.kind == b.kind == "bool":
        return (test & a) | (~test & b)
    parts = [test, _number(a), _number(b)]
    tree = ast.Call(ast.Name("where", ast.Load()), [part.tree for part in parts], [])
    return Symbol(tree, "float", *parts)


def minimum(a: object, b: object) -> Symbol:
    """The smaller of two numbers."""
    return _call("minimum", a, b)


def maximum(a: object, b: object) -> Symbol:
    """The greater of two numbers."""
    return _call("maximum", a, b)


def _unary(name: str, doc: str) -> Callable[[object], Symbol]:
    def function(x: object) -> Symbol:
        return _call(name, x)

    function.__name__ = function.__qualname__ = name
    function.__doc__ = doc
    return function


sqrt = _unary("sqrt", "The square root.")
rsqrt = _unary("rsqrt", "One over the square root.")
exp = _unary("exp", "e to the power.")
log = _unary("log", "The natural logarithm.")
log1p = _unary("log1p", "log(1 + x), exact near 0.")
expm1 = _unary("expm1", "exp(x) - 1, exact near 0.")
sin = _unary("sin", "The sine.")
cos = _unary("cos", "The cosine.")
tan = _unary("tan", "The tangent.")
tanh = _unary("tanh", "The hyperbolic tangent.")
erf = _unary("erf", "The error function.")
floor = _unary("floor", "The greatest integer not above.")
ceil = _unary("ceil", "The least integer not below.")


# ---- Tracing ------------------------------------------------------------------------------------


def _traced(function: Callable[..., Any], names: tuple[str, ...], kind: Kind) -> str:
    """The text of what ``function`` computes of symbols called ``names``."""
    expected = f"a function of ({', '.join(names)})"
    what = "score" if kind == "float" else "mask"
    try:
        made = function(*(Symbol(ast.Name(name, ast.Load()), "float") for name in names))
        result = _number(made) if kind == "float" else _condition(made)
    except _FAILURES as error:
        own = isinstance(error, _UntraceableError)
        raise UsageError(
            f"attention's {what} cannot be traced",
            where=_line_of(function, error.__traceback__),
            got=str(error) if own else f"{type(error).__name__}: {error}",
            expected=expected,
            next=error.next if isinstance(error, _UntraceableError) else None,
        ) from error
    text = ast.unparse(ast.fix_missing_locations(result.tree))
    parse_score(text, names, kind)
    return text


def _line_of(function: Callable[..., Any], trace: TracebackType | None) -> str | None:
    """The last line outside this file that a traceback passes, or where ``function`` begins."""
    place: tuple[str, int] | None = None
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if file != __file__:
            place = file, trace.tb_lineno
        trace = trace.tb_next
    code = getattr(function, "__code__", None)
    if place is None and code is not None:
        place = code.co_filename, code.co_firstlineno
    if place is None:
        return None
    file, line = place
    text = linecache.getline(file, line).strip()
    return f"{file}:{line}" + (f"\n{text}" if text else "")

"""Sizes that are not known yet: integer expressions over named symbols, in one canonical form.

An expression is a sum of integer multiples of products of atoms; an atom is a symbol or one of
``//``, ``%``, ``min``, ``max`` over expressions. Two expressions that simplify to the same sum are
equal and print the same. Symbols stand for sizes: never negative, and positive in a divisor.
What folds to a number is an ``int``, hence ``Dim = int | Expr`` throughout.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from graphopt.errors import IRError, ParseError

from .dtype import DType


@dataclass(frozen=True, slots=True)
class Symbol:
    """A named size."""

    name: str

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class Opaque:
    """``//``, ``%``, ``min`` or ``max`` of expressions that does not simplify."""

    kind: str
    args: tuple[Dim, ...]

    def __str__(self) -> str:
        if self.kind in ("min", "max"):
            return f"{self.kind}({', '.join(map(str, self.args))})"
        left, right = (_parenthesised(arg) for arg in self.args)
        return f"{left} {self.kind} {right}"


Atom = Symbol | Opaque
Monomial = tuple[Atom, ...]


@dataclass(frozen=True, slots=True)
class Expr:
    """A sum of ``coefficient * product of atoms``, sorted, without zero coefficients."""

    terms: tuple[tuple[Monomial, int], ...]

    def __str__(self) -> str:
        match self.terms:
            case (((atom,), 1),):
                return str(atom)
        text = ""
        for monomial, coefficient in self.terms:
            sign = "-" if coefficient < 0 else "+"
            factors = [_factor(atom) for atom in monomial]
            if abs(coefficient) != 1 or not factors:
                factors.insert(0, str(abs(coefficient)))
            product = "*".join(factors)
            if text:
                text += f" {sign} {product}"
            else:
                text = product if sign == "+" else f"-{product}"
        return text

    def __add__(self, other: Dim) -> Dim:
        return _add(self, other)

    def __radd__(self, other: Dim) -> Dim:
        return _add(other, self)

    def __sub__(self, other: Dim) -> Dim:
        return _add(self, _multiply(other, -1))

    def __rsub__(self, other: Dim) -> Dim:
        return _add(other, _multiply(self, -1))

    def __mul__(self, other: Dim) -> Dim:
        return _multiply(self, other)

    def __rmul__(self, other: Dim) -> Dim:
        return _multiply(other, self)

    def __floordiv__(self, other: Dim) -> Dim:
        return _floor_divide(self, other)

    def __rfloordiv__(self, other: Dim) -> Dim:
        return _floor_divide(other, self)

    def __mod__(self, other: Dim) -> Dim:
        return _modulo(self, other)

    def __rmod__(self, other: Dim) -> Dim:
        return _modulo(other, self)

    def __neg__(self) -> Dim:
        return _multiply(self, -1)


Dim = int | Expr


def sym(name: str) -> Expr:
    """The size called ``name``.

    Raises:
        IRError: the name is not an identifier, or means something else in the text form.
    """
    if not _NAME.fullmatch(name) or name in _RESERVED:
        raise IRError("not a name for a size", got=name, expected="an identifier, not a keyword")
    return Expr((((Symbol(name),), 1),))


def dim_min(*dims: Dim) -> Dim:
    """The smallest of ``dims``."""
    return _extreme("min", dims)


def dim_max(*dims: Dim) -> Dim:
    """The largest of ``dims``."""
    return _extreme("max", dims)


def product(dims: Iterable[Dim]) -> Dim:
    """The product of ``dims``; 1 if there are none."""
    total: Dim = 1
    for dim in dims:
        total = _multiply(total, dim)
    return total


def lower_bound(dim: Dim) -> int | None:
    """A number that ``dim`` is never below, or None where nothing simple is known."""
    total = 0
    for monomial, coefficient in _terms(dim):
        if not monomial:
            total += coefficient
        elif coefficient < 0 or not all(_not_negative(atom) for atom in monomial):
            return None
    return total


def symbols(dim: Dim) -> frozenset[str]:
    """Names of the symbols in ``dim``."""
    found: set[str] = set()
    for monomial, _ in _terms(dim):
        for atom in monomial:
            if isinstance(atom, Symbol):
                found.add(atom.name)
            else:
                found.update(*(symbols(arg) for arg in atom.args))
    return frozenset(found)


def evaluate(dim: Dim, env: Mapping[str, int]) -> int:
    """The value of ``dim`` where each symbol has its value in ``env``.

    Raises:
        IRError: a symbol has no value.
    """
    if isinstance(dim, int):
        return dim
    total = 0
    for monomial, coefficient in dim.terms:
        for atom in monomial:
            coefficient *= _evaluate_atom(atom, env)
        total += coefficient
    return total


def substitute(dim: Dim, env: Mapping[str, Dim]) -> Dim:
    """``dim`` with the symbols named in ``env`` replaced."""
    total: Dim = 0
    for monomial, coefficient in _terms(dim):
        term: Dim = coefficient
        for atom in monomial:
            if isinstance(atom, Symbol):
                term = _multiply(term, env.get(atom.name, Expr((((atom,), 1),))))
            else:
                args = [substitute(arg, env) for arg in atom.args]
                term = _multiply(term, _OPERATORS[atom.kind](*args))
        total = _add(total, term)
    return total


def parse_dim(text: str) -> Dim:
    """The expression that prints as ``text``.

    Raises:
        ParseError: the text is not an expression over ``+ - * // % min max``.
    """
    dim, end = parse_dim_at(text, 0)
    if text[end:].strip():
        raise ParseError("not a size expression", got=text, where=f"column {end + 1}")
    return dim


def parse_dim_at(text: str, start: int) -> tuple[Dim, int]:
    """The longest expression in ``text`` from ``start`` on, and where it ends.

    Raises:
        ParseError: there is none.
    """
    reader = _Reader(text, start)
    try:
        dim = reader.total()
    except IRError as error:
        raise ParseError(error.what, got=error.got or text[start:], where=error.where) from error
    return dim, reader.end


_TOKEN = re.compile(r"[ \t]*(?:(\d+)|([A-Za-z_]\w*)|(//|[-+*%(),]))", re.ASCII)
_NAME = re.compile(r"[A-Za-z_]\w*", re.ASCII)
_RESERVED = frozenset(
    {"none", "true", "false", "inf", "nan", "min", "max", *(d.value for d in DType)}
)
_DEEPEST = 100  # parentheses in parentheses, before Python's own stack gives out
_LONGEST = 40  # digits of a number


class _Reader:
    """Reads one expression by recursive descent; ``end`` is where what it took ends."""

    def __init__(self, text: str, start: int) -> None:
        self.text = text
        self.end = start
        self.depth = 0

    def peek(self) -> str:
        """The next token if it is a mark, else nothing."""
        found = _TOKEN.match(self.text, self.end)
        return found[3] or "" if found else ""

    def take(self) -> re.Match[str]:
        """The next token."""
        found = _TOKEN.match(self.text, self.end)
        if found is None:
            rest = self.text[self.end :].split("\n")[0].strip()
            raise ParseError("a size expression breaks off", got=rest or "the end")
        self.end = found.end()
        return found

    def expect(self, mark: str) -> None:
        """Takes ``mark``."""
        found = self.take()
        if found[3] != mark:
            raise ParseError("not a size expression", got=found[0].strip(), expected=mark)

    def total(self) -> Dim:
        """Terms with ``+`` and ``-`` between them."""
        left = self.term()
        while (mark := self.peek()) in ("+", "-"):
            self.take()
            left = _OPERATORS[mark](left, self.term())
        return left

    def term(self) -> Dim:
        """Factors with ``*``, ``//`` and ``%`` between them, from left to right."""
        left = self.factor()
        while (mark := self.peek()) in ("*", "//", "%"):
            self.take()
            left = _OPERATORS[mark](left, self.factor())
        return left

    def factor(self) -> Dim:
        """A number, a symbol, a call, something in parentheses, or the negative of a factor."""
        self.depth += 1
        if self.depth > _DEEPEST:
            raise ParseError("a size expression is too deep", expected=f"{_DEEPEST} at most")
        found = self.take()
        digits, name, mark = found.groups()
        if digits:
            result: Dim = self.number(digits)
        elif name in ("min", "max"):
            result = self.extreme(name)
        elif name:
            result = sym(name)
        elif mark == "-":
            result = _multiply(self.factor(), -1)
        elif mark == "(":
            result = self.total()
            self.expect(")")
        else:
            raise ParseError("not a size expression", got=mark)
        self.depth -= 1
        return result

    def number(self, digits: str) -> int:
        """An integer."""
        if len(digits) > _LONGEST:
            raise ParseError("a number is too long", expected=f"{_LONGEST} digits at most")
        return int(digits)

    def extreme(self, kind: str) -> Dim:
        """The arguments of ``min`` or ``max``."""
        self.expect("(")
        args = [self.total()]
        while self.peek() == ",":
            self.take()
            args.append(self.total())
        self.expect(")")
        return _extreme(kind, args)


def _terms(dim: Dim) -> tuple[tuple[Monomial, int], ...]:
    if isinstance(dim, int):
        return (((), dim),) if dim else ()
    return dim.terms


def _order(term: tuple[Monomial, int]) -> tuple[int, list[str]]:
    return (-len(term[0]), [str(atom) for atom in term[0]])


def _build(terms: Mapping[Monomial, int]) -> Dim:
    kept = [(monomial, value) for monomial, value in terms.items() if value]
    if not kept:
        return 0
    if len(kept) == 1 and not kept[0][0]:
        return kept[0][1]
    return Expr(tuple(sorted(kept, key=_order)))


def _add(left: Dim, right: Dim) -> Dim:
    if isinstance(left, int) and isinstance(right, int):
        return left + right
    total = dict(_terms(left))
    for monomial, coefficient in _terms(right):
        total[monomial] = total.get(monomial, 0) + coefficient
    return _build(total)


def _multiply(left: Dim, right: Dim) -> Dim:
    if isinstance(left, int) and isinstance(right, int):
        return left * right
    total: dict[Monomial, int] = {}
    for first, a in _terms(left):
        for second, b in _terms(right):
            monomial = tuple(sorted(first + second, key=str))
            total[monomial] = total.get(monomial, 0) + a * b
    return _build(total)


def _floor_divide(left: Dim, right: Dim) -> Dim:
    if isinstance(right, int) and right == 0:
        raise IRError("a size expression divides by zero", got=f"{left} // 0")
    if isinstance(left, int) and isinstance(right, int):
        return left // right
    if right == 1:
        return left
    whole, rest = _split_by(left, right)
    if not rest:
        return whole
    remainder, right, _ = _reduced(_build(rest), right)
    if isinstance(remainder, int) and isinstance(right, int):
        return _add(whole, remainder // right)
    return _add(whole, Expr((((Opaque("//", (remainder, right)),), 1),)))


def _modulo(left: Dim, right: Dim) -> Dim:
    if isinstance(right, int) and right == 0:
        raise IRError("a size expression divides by zero", got=f"{left} % 0")
    if isinstance(left, int) and isinstance(right, int):
        return left % right
    if right == 1:
        return 0
    _, rest = _split_by(left, right)
    remainder, right, scale = _reduced(_build(rest), right)
    if isinstance(remainder, int) and (remainder == 0 or isinstance(right, int)):
        return remainder % right * scale if isinstance(right, int) else 0
    return _multiply(Expr((((Opaque("%", (remainder, right)),), 1),)), scale)


def _reduced(left: Dim, right: Dim) -> tuple[Dim, Dim, int]:
    """``left`` and ``right`` without the greatest positive number that divides both, and it."""
    coefficients = [value for dim in (left, right) for _, value in _terms(dim)]
    scale = math.gcd(*coefficients)
    if scale <= 1:
        return left, right, 1
    small = [_build({m: value // scale for m, value in _terms(dim)}) for dim in (left, right)]
    return small[0], small[1], scale


def _split_by(left: Dim, right: Dim) -> tuple[Dim, dict[Monomial, int]]:
    """``left`` as ``whole * right + rest``, where whole takes the terms that divide exactly."""
    divisor = _terms(right)
    if len(divisor) != 1:
        return (1, {}) if left == right else (0, dict(_terms(left)))
    (factors, scale), whole, rest = divisor[0], {}, {}
    for monomial, coefficient in _terms(left):
        remaining = list(monomial)
        for atom in factors:
            if atom in remaining:
                remaining.remove(atom)
        if coefficient % scale == 0 and len(remaining) == len(monomial) - len(factors):
            whole[tuple(remaining)] = coefficient // scale
        else:
            rest[monomial] = coefficient
    return _build(whole), rest


def _extreme(kind: str, dims: Iterable[Dim]) -> Dim:
    pick: Callable[[int, int], int] = min if kind == "min" else max
    constant: int | None = None
    others: dict[str, Dim] = {}
    for dim in _flatten(kind, dims):
        if isinstance(dim, int):
            constant = dim if constant is None else pick(constant, dim)
        else:
            others.setdefault(str(dim), dim)
    if constant is not None:
        bounds = {text: lower_bound(dim) for text, dim in others.items()}
        if kind == "max" and any(b is not None and b >= constant for b in bounds.values()):
            constant = None
        elif kind == "min":
            drop = {
                text for text, bound in bounds.items() if bound is not None and bound >= constant
            }
            others = {text: dim for text, dim in others.items() if text not in drop}
    args = [others[text] for text in sorted(others)]
    if constant is not None:
        args.append(constant)
    if len(args) == 1:
        return args[0]
    return Expr((((Opaque(kind, tuple(args)),), 1),))


def _flatten(kind: str, dims: Iterable[Dim]) -> Iterable[Dim]:
    for dim in dims:
        match dim:
            case Expr(terms=(((Opaque(kind=inner, args=args),), 1),)) if inner == kind:
                yield from _flatten(kind, args)
            case _:
                yield dim


def _not_negative(atom: Atom) -> bool:
    if isinstance(atom, Symbol):
        return True
    bounds = [lower_bound(arg) for arg in atom.args]
    if atom.kind == "%":
        return True
    if atom.kind == "max":
        return any(bound is not None and bound >= 0 for bound in bounds)
    return all(bound is not None and bound >= 0 for bound in bounds)


def _evaluate_atom(atom: Atom, env: Mapping[str, int]) -> int:
    if isinstance(atom, Symbol):
        if atom.name not in env:
            raise IRError(f"size {atom.name} has no value", expected=", ".join(sorted(env)))
        return env[atom.name]
    args = [evaluate(arg, env) for arg in atom.args]
    if atom.kind in ("//", "%") and args[1] == 0:
        raise IRError("a size expression divides by zero", got=str(atom))
    value = _OPERATORS[atom.kind](*args)
    if isinstance(value, Expr):
        raise IRError("a size expression did not fold", got=str(value))
    return value


_OPERATORS: dict[str, Callable[..., Dim]] = {
    "+": _add,
    "-": lambda left, right: _add(left, _multiply(right, -1)),
    "*": _multiply,
    "//": _floor_divide,
    "%": _modulo,
    "min": dim_min,
    "max": dim_max,
}


def _parenthesised(dim: Dim) -> str:
    text = str(dim)
    simple = isinstance(dim, int) and dim >= 0
    if isinstance(dim, Expr) and len(dim.terms) == 1:
        monomial, coefficient = dim.terms[0]
        simple = coefficient == 1 and len(monomial) == 1 and not _is_infix(monomial[0])
    return text if simple else f"({text})"


def _factor(atom: Atom) -> str:
    return f"({atom})" if _is_infix(atom) else str(atom)


def _is_infix(atom: Atom) -> bool:
    return isinstance(atom, Opaque) and atom.kind in ("//", "%")

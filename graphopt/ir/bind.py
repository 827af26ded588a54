"""What the symbols of a graph stand for in one run, told from the shapes of its inputs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from graphopt.errors import IRError

from .shape import Dim, Expr, Symbol, evaluate, substitute, symbols
from .types import TensorType


def bind_sizes(inputs: Iterable[tuple[str, TensorType, Sequence[int]]]) -> dict[str, int]:
    """The value of every symbol in the declared shapes.

    A size that is a symbol, or a multiple of one plus a number, tells it; every size must agree.

    Args:
        inputs: for each input its name, its declared type and its shape in this run.

    Raises:
        IRError: a shape does not fit its type, or no size tells a symbol.
    """
    rows = [(name, type_, tuple(shape)) for name, type_, shape in inputs]
    pending: list[tuple[Dim, int]] = []
    for name, type_, shape in rows:
        if len(shape) != len(type_.shape):
            raise _misfit(name, type_, shape)
        pending.extend(zip(type_.shape, shape, strict=True))
    env: dict[str, int] = {}
    told = True
    while told:
        told = False
        for dim, size in pending:
            solved = _solve(substitute(dim, env), size)
            if solved is not None:
                env[solved[0]] = solved[1]
                told = True
    for name, type_, shape in rows:
        for dim, size in zip(type_.shape, shape, strict=True):
            unknown = symbols(dim) - env.keys()
            if unknown:
                raise IRError(
                    f"no input tells the size {min(unknown)}", where=f"input {name}", got=type_
                )
            if evaluate(dim, env) != size:
                raise _misfit(name, type_, shape, env)
    return env


def _solve(dim: Dim, size: int) -> tuple[str, int] | None:
    """The symbol and its value where ``dim == size`` has one unknown and one whole solution."""
    if not isinstance(dim, Expr):
        return None
    offset = 0
    found: tuple[str, int] | None = None
    for monomial, coefficient in dim.terms:
        match monomial:
            case ():
                offset = coefficient
            case (Symbol(name=name),) if found is None:
                found = (name, coefficient)
            case _:
                return None
    if found is None or (size - offset) % found[1] or (size - offset) // found[1] < 0:
        return None
    return found[0], (size - offset) // found[1]


def _misfit(
    name: str, type_: TensorType, shape: tuple[int, ...], env: dict[str, int] | None = None
) -> IRError:
    sizes = ", ".join(f"{key} = {value}" for key, value in sorted((env or {}).items()))
    return IRError(
        "the shape of an input does not fit its type",
        where=f"input {name}",
        got=f"[{', '.join(map(str, shape))}]",
        expected=f"{type_}{f' where {sizes}' if sizes else ''}",
    )

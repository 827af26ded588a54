"""PyTorch's symbolic sizes, as expressions of the IR."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from graphopt.errors import TraceError
from graphopt.ir.shape import Dim, dim_max, dim_min, sym


class Sizes:
    """Translates sizes of one exported graph.

    Args:
        names: PyTorch's symbols, by name, and the names they have in the IR.
    """

    def __init__(self, names: Mapping[str, str]) -> None:
        self._names = dict(names)
        self._known: dict[object, Dim] = {}

    def dim(self, size: object) -> Dim:
        """The expression for an ``int`` or a ``SymInt``.

        Raises:
            TraceError: the size depends on data, or on a function that sizes do not have.
        """
        if isinstance(size, int) and not isinstance(size, bool):
            return size
        if isinstance(size, torch.SymInt):
            expression = size.node.expr
            if expression not in self._known:
                self._known[expression] = self._translate(expression)
            return self._known[expression]
        raise TraceError("a size is not an integer", got=repr(size))

    def tells(self, size: torch.SymInt) -> bool:
        """Whether all that a size is made of has a name, and PyTorch knows it to be 0 or more."""
        expression = size.node.expr
        if expression.is_Symbol:
            return str(expression) in self._names
        known = size.node.shape_env.bound_sympy(expression)
        named = all(str(symbol) in self._names for symbol in expression.free_symbols)
        return named and bool(known.lower >= 0)

    def shape(self, tensor: torch.Tensor) -> tuple[Dim, ...]:
        """The shape of a (fake) tensor."""
        return tuple(self.dim(size) for size in tensor.shape)

    def _translate(self, expression: Any) -> Dim:
        if expression.is_Integer:
            return int(expression)
        if expression.is_Symbol:
            return self._symbol(str(expression))
        args = [self._translate(arg) for arg in expression.args]
        name = type(expression).__name__
        if name == "Add":
            return sum(args[1:], start=args[0])
        if name == "Mul":
            total = args[0]
            for arg in args[1:]:
                total = total * arg
            return total
        if name in ("Pow", "PowByNatural") and isinstance(args[1], int) and args[1] > 0:
            total = args[0]
            for _ in range(args[1] - 1):
                total = total * args[0]
            return total
        if name in ("FloorDiv", "CleanDiv", "IntTrueDiv"):
            return args[0] // args[1]
        if name in ("Mod", "PythonMod"):
            return args[0] % args[1]
        if name in ("Max", "Min"):
            return (dim_max if name == "Max" else dim_min)(*args)
        raise TraceError(
            "a size is computed in a way that graphopt does not know",
            got=str(expression),
            expected="sums, products, quotients, remainders, least and greatest",
        )

    def _symbol(self, name: str) -> Dim:
        if name not in self._names:
            raise TraceError(
                "a size depends on the values of tokens, not on how many there are",
                got=name,
                next="the model's code chooses a number of elements by looking at data, which "
                "has no static graph",
            )
        return sym(self._names[name])

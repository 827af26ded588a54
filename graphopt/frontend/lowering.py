"""What a lowering sees of one call in the exported graph, and what it may give back.

A lowering is a function from a ``Call`` to IR values. It raises ``NotLowered`` where the call has a
form it does not know; the importer then keeps the call as ``aten.*``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from graphopt.errors import GraphoptError, TraceError
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Value
from graphopt.ir.shape import Dim, Expr
from graphopt.ir.types import TensorType

from .emitter import Emitter, type_of
from .sizes import Sizes


class NotLowered(GraphoptError):  # noqa: N818
    """This form of an operator has no native counterpart; never seen by a user."""


@dataclass(frozen=True, slots=True)
class Complex:
    """A complex tensor, which the IR does not have: its real and imaginary parts."""

    real: Value
    imaginary: Value


# What a call gives: a tensor, a complex tensor, several results, a size, or nothing.
Result = Value | Complex | Dim | None | tuple["Result", ...]
Lowering = Callable[["Call"], Result]


class Call:
    """One call of a PyTorch operator.

    Attributes:
        name: such as ``aten.mul.Tensor``.
        emit: where to put nodes.
        fake: what PyTorch says of the result: a fake tensor, or several.
    """

    def __init__(
        self,
        name: str,
        emit: Emitter,
        sizes: Sizes,
        arguments: Mapping[str, object],
        fakes: Mapping[str, object],
        fake: object,
    ) -> None:
        self.name = name
        self.emit = emit
        self.fake = fake
        self._sizes = sizes
        self._arguments = arguments
        self._fakes = fakes

    def get(self, name: str, default: object = None) -> Any:
        """The argument called ``name`` in the operator's schema: a value, a number, a list."""
        found = self._arguments.get(name)
        return default if found is None else found

    def has(self, name: str) -> bool:
        """Whether the schema has an argument ``name`` and the call gives it."""
        return self._arguments.get(name) is not None

    def value(self, name: str) -> Value:
        """The tensor argument ``name``.

        Raises:
            NotLowered: it is missing, or not a real tensor.
        """
        found = self._arguments.get(name)
        if not isinstance(found, Value):
            raise NotLowered(f"{self.name}: {name} is not a tensor", got=type(found).__name__)
        return found

    def values(self, name: str) -> list[Value]:
        """The list of tensors ``name``."""
        found = self._arguments.get(name)
        items = found if isinstance(found, Sequence) else ()
        values = [item for item in items if isinstance(item, Value)]
        if not values or len(values) != len(items):
            raise NotLowered(f"{self.name}: {name} is not a list of tensors")
        return values

    def with_value(self, name: str, value: Value) -> Call:
        """The same call with another tensor for the argument ``name``."""
        arguments = {**self._arguments, name: value}
        return Call(self.name, self.emit, self._sizes, arguments, self._fakes, self.fake)

    def number(self, name: str, default: float | int | bool | None = None) -> Any:
        """The number ``name``, or a size."""
        found = self._arguments.get(name)
        found = default if found is None else found
        if isinstance(found, bool | int | float | Expr):
            return found
        raise NotLowered(f"{self.name}: {name} is not a number", got=repr(found))

    def axis(self, name: str = "dim", of: str = "self", default: int | None = None) -> int:
        """The dimension ``name``, counted from the front of argument ``of``."""
        found = self.get(name, default)
        rank = len(type_of(self.value(of)).shape)
        if not isinstance(found, int) or rank == 0:
            raise NotLowered(f"{self.name}: {name} is not a dimension", got=repr(found))
        return found % rank

    def axes(self, name: str = "dim", of: str = "self") -> tuple[int, ...]:
        """The dimensions ``name``, sorted; all of them where none is given."""
        found = self.get(name)
        rank = len(type_of(self.value(of)).shape)
        if found is None or found == []:
            return tuple(range(rank))
        listed = found if isinstance(found, Sequence) else [found]
        return tuple(sorted(dim % rank for dim in listed))

    def promoted(self, *names: str) -> DType:
        """The element type in which PyTorch computes with the arguments ``names``."""
        given: list[Any] = [
            self._fakes[name] for name in names if self._fakes.get(name) is not None
        ]
        plain = [_plain(item) for item in given]
        first, *others = plain
        if not others:
            return self.dtype_of(first)
        return dtype_named(torch.result_type(first, others[0]))

    def dtype_of(self, fake: object) -> DType:
        """The element type of a fake tensor."""
        if not isinstance(fake, torch.Tensor):
            raise NotLowered(f"{self.name}: not a tensor", got=type(fake).__name__)
        return dtype_named(fake.dtype)

    def fakes(self) -> list[object]:
        """What PyTorch says of the arguments."""
        return list(self._fakes.values())

    def fakes_by_name(self) -> Mapping[str, object]:
        """What PyTorch says of each argument."""
        return self._fakes

    def fake_of(self, name: str) -> object:
        """What PyTorch says of the argument ``name``."""
        return self._fakes.get(name)

    @property
    def dtype(self) -> DType:
        """Element type of the result."""
        return self.dtype_of(self.fake)

    @property
    def shape(self) -> tuple[Dim, ...]:
        """Shape of the result."""
        if not isinstance(self.fake, torch.Tensor):
            raise NotLowered(f"{self.name}: not one result")
        return self._sizes.shape(self.fake)

    def types(self) -> tuple[TensorType, ...]:
        """Types of all results."""
        fakes: Sequence[Any] = self.fake if isinstance(self.fake, tuple | list) else (self.fake,)
        return tuple(TensorType(self.dtype_of(fake), self._sizes.shape(fake)) for fake in fakes)


def _plain(fake: Any) -> Any:
    """A number of the kind that a symbolic one stands for."""
    if isinstance(fake, torch.SymInt):
        return 1
    return 1.0 if isinstance(fake, torch.SymFloat) else fake


def dtype_named(dtype: torch.dtype) -> DType:
    """Our name for PyTorch's element type.

    Raises:
        NotLowered: complex numbers, which only special lowerings take.
        UnsupportedError: graphopt has no such type.
    """
    if dtype.is_complex:
        raise NotLowered("complex numbers", got=dtype)
    return DType.from_torch_name(str(dtype))


def rank_of(value: Value) -> int:
    """Number of dimensions of a value."""
    return len(type_of(value).shape)


def fixed(size: Dim, what: str) -> int:
    """A size that must be a number.

    Raises:
        TraceError: it depends on the number of tokens.
    """
    if isinstance(size, int):
        return size
    raise TraceError(f"{what} depends on the number of tokens", got=str(size))

"""Types of values: tensors with symbolic shapes, and state that lives from step to step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

from .dtype import DType
from .shape import Dim, product

STATE_KINDS = ("kv", "latent", "conv", "recurrent")


@dataclass(frozen=True, slots=True)
class TensorType:
    """A dense tensor: element type and shape. Prints as ``bf16[T, 2048]``."""

    dtype: DType
    shape: tuple[Dim, ...]

    def __str__(self) -> str:
        return f"{self.dtype}[{', '.join(map(str, self.shape))}]"


@dataclass(frozen=True, slots=True)
class LayerState:
    """What a layer keeps of each token: ``heads`` keys of ``key_size``, values of ``value_size``.

    In a latent state the values are the first ``value_size`` entries of the keys. ``window`` is how
    many of the latest tokens the layer can see, 0 for all of them. Prints as ``(8, 64, 64, bf16)``,
    or ``(8, 64, 64, bf16, 512)`` with a window.
    """

    heads: int
    key_size: int
    value_size: int
    dtype: DType
    window: int = 0

    def __str__(self) -> str:
        tail = f", {self.window}" if self.window else ""
        return f"({self.heads}, {self.key_size}, {self.value_size}, {self.dtype}{tail})"


@dataclass(frozen=True, slots=True)
class StateType:
    """Memory of a sequence, one entry per layer. Prints as ``kv[2 x (8, 64, 64, bf16)]``.

    Attributes:
        kind: one of ``STATE_KINDS``: ``kv`` keeps keys and values, ``latent`` keeps only keys, of
            which the first entries are the values.
        layers: what each layer keeps.
    """

    kind: str
    layers: tuple[LayerState, ...]

    def __str__(self) -> str:
        runs = ((layer, len(list(group))) for layer, group in groupby(self.layers))
        return f"{self.kind}[{', '.join(f'{count} x {layer}' for layer, count in runs)}]"

    @property
    def is_latent(self) -> bool:
        """Whether values lie within the keys and take no memory of their own."""
        return self.kind == "latent"

    @property
    def bytes_per_token(self) -> int:
        """Bytes that one token takes in all layers."""
        return sum(map(self.bytes_in, self.layers))

    def bytes_in(self, layer: LayerState) -> int:
        """Bytes that one token takes in ``layer``, one of this state's."""
        size = layer.key_size + (0 if self.is_latent else layer.value_size)
        return layer.heads * size * layer.dtype.nbytes


Type = TensorType | StateType


def numel(type_: TensorType) -> Dim:
    """How many elements a tensor has."""
    return product(type_.shape)


def nbytes(type_: Type) -> Dim:
    """How many bytes a tensor has; 0 for state, which is paged and counted by its blocks."""
    if isinstance(type_, StateType):
        return 0
    return product((numel(type_), type_.dtype.nbytes))


def dims_of(type_: Type) -> Iterator[Dim]:
    """The sizes that occur in a type."""
    if isinstance(type_, TensorType):
        yield from type_.shape

"""The memory of keys and values that the reference reads and writes, paged as the engine's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from graphopt.errors import IRError

from .types import StateType


@dataclass(frozen=True, slots=True, eq=False)
class PagedState:
    """Blocks of keys and values, per layer. The tensors are updated in place.

    Attributes:
        keys: per layer, ``[N, B, Hkv, Dk]``.
        values: per layer, ``[N, B, Hkv, Dv]``.
        block_size: ``B``, tokens in a block.
    """

    keys: tuple[torch.Tensor, ...]
    values: tuple[torch.Tensor, ...]
    block_size: int

    @classmethod
    def allocate(
        cls,
        type: StateType,
        num_blocks: int,
        block_size: int,
        *,
        device: torch.device | str | None = None,
        fill: float = 0.0,
    ) -> PagedState:
        """Memory for ``num_blocks`` blocks of ``block_size`` tokens of every layer.

        Raises:
            IRError: the state is of another kind than ``kv``.
        """
        if type.kind != "kv":
            raise IRError("the reference keeps only keys and values", got=type)

        def tensors(sizes: Sequence[int]) -> tuple[torch.Tensor, ...]:
            return tuple(
                torch.full(
                    (num_blocks, block_size, layer.heads, size),
                    fill,
                    dtype=getattr(torch, layer.dtype.torch_name),
                    device=device,
                )
                for layer, size in zip(type.layers, sizes, strict=True)
            )

        return cls(
            tensors([layer.key_size for layer in type.layers]),
            tensors([layer.value_size for layer in type.layers]),
            block_size,
        )

    def clone(self) -> PagedState:
        """A copy that shares nothing with this one."""
        return PagedState(
            tuple(t.clone() for t in self.keys),
            tuple(t.clone() for t in self.values),
            self.block_size,
        )

    def to(self, dtype: torch.dtype) -> PagedState:
        """A copy whose elements have another type."""
        return PagedState(
            tuple(t.to(dtype, copy=True) for t in self.keys),
            tuple(t.to(dtype, copy=True) for t in self.values),
            self.block_size,
        )

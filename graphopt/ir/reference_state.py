"""The memory of keys and values that the reference reads and writes, paged as the engine's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from graphopt.errors import IRError

from .types import LayerState, StateType


@dataclass(frozen=True, slots=True, eq=False)
class PagedState:
    """Blocks of keys and values, per layer. The tensors are updated in place.

    Attributes:
        keys: per layer, ``[N, B, Hkv, Dk]``.
        values: per layer, ``[N, B, Hkv, Dv]``; in a latent state views of the keys.
        block_size: ``B``, tokens in a block.
        is_latent: whether the values are the first entries of the keys.
    """

    keys: tuple[torch.Tensor, ...]
    values: tuple[torch.Tensor, ...]
    block_size: int
    is_latent: bool = False

    @classmethod
    def allocate(
        cls,
        type: StateType,
        num_blocks: int,
        block_size: int,
        *,
        device: torch.device | str | None = None,
        fill: float | None = 0.0,
    ) -> PagedState:
        """Memory for ``num_blocks`` blocks of ``block_size`` tokens of every layer.

        Args:
            type: what the layers keep.
            num_blocks: how many blocks.
            block_size: tokens in a block.
            device: where.
            fill: what the memory holds; with None it is not touched.

        Raises:
            IRError: the state is of another kind than ``kv`` and ``latent``.
        """
        if type.kind not in ("kv", "latent"):
            raise IRError("the reference keeps only keys and values", got=type)

        def tensor(layer: LayerState, size: int) -> torch.Tensor:
            shape = (num_blocks, block_size, layer.heads, size)
            found = torch.empty(shape, dtype=getattr(torch, layer.dtype.torch_name), device=device)
            return found if fill is None else found.fill_(fill)

        keys = tuple(tensor(layer, layer.key_size) for layer in type.layers)
        if type.is_latent:
            parts = zip(keys, type.layers, strict=True)
            values = tuple(key[..., : layer.value_size] for key, layer in parts)
        else:
            values = tuple(tensor(layer, layer.value_size) for layer in type.layers)
        return cls(keys, values, block_size, type.is_latent)

    def clone(self) -> PagedState:
        """A copy that shares nothing with this one."""
        return self._mapped(torch.clone)

    def to(self, dtype: torch.dtype) -> PagedState:
        """A copy whose elements have another type."""
        return self._mapped(lambda tensor: tensor.to(dtype, copy=True))

    def _mapped(self, change: Callable[[torch.Tensor], torch.Tensor]) -> PagedState:
        keys = tuple(map(change, self.keys))
        if self.is_latent:
            parts = zip(keys, self.values, strict=True)
            values = tuple(key[..., : value.shape[-1]] for key, value in parts)
        else:
            values = tuple(map(change, self.values))
        return PagedState(keys, values, self.block_size, self.is_latent)

"""Keys and values on a GPU, as Triton's kernels read them.

Of each layer: keys ``[num_blocks * B, Hkv, Dk]``, then values ``[num_blocks * B, Hkv, Dv]``; a
latent layer has keys only, and its values are their first entries. All begin as zeros, so that what
a token of padding might see is a number.
"""

from __future__ import annotations

from collections.abc import Mapping

from graphopt.errors import MachineError
from graphopt.plan import Plan
from graphopt.plan_arguments import Kind

from .device import Device, rounded


class DeviceState:
    """The KV memory of a plan.

    Args:
        device: where.
        plan: whose.
        num_blocks: how many blocks of every layer.

    Attributes:
        num_blocks: likewise.
        places: addresses of each layer's keys and values.

    Raises:
        MachineError: there is not enough memory.
    """

    def __init__(self, device: Device, plan: Plan, num_blocks: int) -> None:
        self._device = device
        self.num_blocks = num_blocks
        slots = num_blocks * plan.block_size
        offsets: dict[tuple[Kind, int], int] = {}
        end = 0
        for number, layer in enumerate(plan.state.layers):
            row = slots * layer.heads * layer.dtype.nbytes
            offsets[Kind.KEYS, number] = end
            end += rounded(row * layer.key_size)
            offsets[Kind.VALUES, number] = end
            if plan.state.is_latent:
                offsets[Kind.VALUES, number] = offsets[Kind.KEYS, number]
            else:
                end += rounded(row * layer.value_size)
        try:
            self._base = device.allocate(end, "keys and values")
        except MachineError as error:
            raise MachineError(
                "KV memory could not be allocated",
                where=error.what,
                got=f"{num_blocks} blocks of {plan.bytes_per_block} bytes: {error.got}",
                next="lower kv_cache_memory",
            ) from error
        device.fill(self._base, end, 0)
        self.places: Mapping[tuple[Kind, int], int] = {
            key: self._base + offset for key, offset in offsets.items()
        }

    def close(self) -> None:
        """Give the memory back."""
        self._device.free(self._base)

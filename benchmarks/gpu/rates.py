"""What a GPU can do: bytes a second of a large copy, operations a second of a large product."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch

from .clock import Clock, measure

COPY_BYTES = 4 << 30
PRODUCT = 8192


@dataclass(frozen=True, slots=True)
class Rates:
    """Of a device.

    Attributes:
        bytes_per_second: read and written by a copy from the device to itself.
        flops_per_second: of a product of two bf16 matrices of 8192 rows and columns.
    """

    bytes_per_second: float
    flops_per_second: float

    def as_json(self) -> dict[str, float]:
        """For the results."""
        return asdict(self)

    def least_seconds(self, nbytes: float, flops: float) -> float:
        """How long something must take that moves so much and computes so much."""
        return max(nbytes / self.bytes_per_second, flops / self.flops_per_second)


def measured_rates(
    clock: Clock,
    device: torch.device,
    rounds: int,
    *,
    copy_bytes: int = COPY_BYTES,
    size: int = PRODUCT,
) -> Rates:
    """The rates of a device."""
    source = torch.zeros(copy_bytes, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    a, b = (torch.randn(size, size, device=device).bfloat16() for _ in range(2))
    out = torch.empty_like(a)
    found = measure(
        clock,
        {"copy": lambda: target.copy_(source), "product": lambda: torch.mm(a, b, out=out)},
        rounds,
    )
    return Rates(2 * copy_bytes / found["copy"].median, 2 * size**3 / found["product"].median)

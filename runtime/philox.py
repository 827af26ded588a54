"""Random numbers as a function: Philox4x32-10, vectorised.

Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3", section 3.2. The generator has no
state: seed and counter go in, four 32-bit words come out. So the number that a sample's n-th token
gets does not depend on what else is in the batch, on chunking or on preemption, and any executor
can compute it (the same function is in cuRAND and Triton).
"""

from __future__ import annotations

import numpy as np

from .executor import F64, U64

_ROUNDS = 10
_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_KEY_STEPS = (np.uint64(0x9E3779B9), np.uint64(0xBB67AE85))
_LOW = np.uint64(0xFFFFFFFF)
_WORD = np.uint64(32)


def philox(counter: tuple[U64, U64, U64, U64], key: tuple[U64, U64]) -> tuple[U64, U64, U64, U64]:
    """Four random 32-bit words (in u64 arrays) for each counter of four and key of two words."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        product0, product1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            (product1 >> _WORD) ^ c1 ^ k0,
            product1 & _LOW,
            (product0 >> _WORD) ^ c3 ^ k1,
            product0 & _LOW,
        )
        k0, k1 = (k0 + _KEY_STEPS[0]) & _LOW, (k1 + _KEY_STEPS[1]) & _LOW
    return c0, c1, c2, c3


def uniform(seeds: U64, streams: U64, counters: U64) -> F64:
    """Numbers in [0, 1) with 53 random bits, one for each seed, stream and counter.

    Args:
        seeds: u64[R].
        streams: u64[R], below 2**32 - 1; the number of a sample within its request.
        counters: u64[R], the number of a token within its sample.
    """
    words = philox(
        (counters & _LOW, counters >> _WORD, streams & _LOW, np.zeros_like(counters)),
        (seeds & _LOW, seeds >> _WORD),
    )
    high, low = words[0] >> np.uint64(5), words[1] >> np.uint64(6)
    return (high.astype(np.float64) * 67108864.0 + low.astype(np.float64)) / 9007199254740992.0


def derive_seed(seed: int, number: int) -> int:
    """A seed for the request with this ``number``, drawn from the engine's ``seed``."""
    numbers = np.array([number], dtype=np.uint64)
    seeds = np.array([seed], dtype=np.uint64)
    # The stream that no sample has, so that requests and samples never share numbers.
    streams = np.full_like(numbers, _LOW)
    words = philox(
        (numbers & _LOW, numbers >> _WORD, streams, np.zeros_like(numbers)),
        (seeds & _LOW, seeds >> _WORD),
    )
    return int(words[0][0]) << 32 | int(words[1][0])

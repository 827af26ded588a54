"""Known answers, and what the sampler relies on."""

import numpy as np
import pytest

from graphopt.runtime.philox import derive_seed, philox, uniform

# From the Random123 distribution's kat_vectors, philox 4x32 with 10 rounds.
KNOWN = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    (
        (0xFFFFFFFF,) * 4,
        (0xFFFFFFFF,) * 2,
        (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
    ),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


def words(values):
    return tuple(np.array([value], dtype=np.uint64) for value in values)


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN)
def test_known_answers(counter, key, expected):
    assert tuple(int(word[0]) for word in philox(words(counter), words(key))) == expected


def u64(values):
    return np.array(values, dtype=np.uint64)


def test_every_element_is_computed_alone():
    seeds, streams, counters = u64([1, 2**63, 1, 1]), u64([0, 0, 1, 0]), u64([0, 0, 0, 7])
    together = uniform(seeds, streams, counters)
    for place in range(4):
        one = slice(place, place + 1)
        assert uniform(seeds[one], streams[one], counters[one])[0] == together[place]
    assert len(set(together)) == 4


def test_all_bits_of_seed_and_counter_count():
    zeros = u64([0] * 64)
    bits = u64([1 << bit for bit in range(64)])
    assert len(set(uniform(bits, zeros, zeros))) == 64
    assert len(set(uniform(zeros, zeros, bits))) == 64


def test_numbers_are_uniform():
    count = 20_000
    numbers = uniform(u64([42] * count), u64([0] * count), np.arange(count, dtype=np.uint64))
    assert numbers.min() >= 0.0
    assert numbers.max() < 1.0
    # The largest gap to the uniform distribution; 1.95 / sqrt(n) is exceeded once in 1000.
    gap = np.abs(np.sort(numbers) - (np.arange(count) + 0.5) / count).max()
    assert gap < 1.95 / np.sqrt(count)


def test_derived_seeds_differ_and_repeat():
    seeds = {derive_seed(engine, number) for engine in range(4) for number in range(50)}
    assert len(seeds) == 200
    assert derive_seed(3, 5) == derive_seed(3, 5)
    assert all(0 <= seed < 2**64 for seed in seeds)

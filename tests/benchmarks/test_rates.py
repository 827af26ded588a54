"""Readings are rates that a machine can have, and combine as they should."""

from __future__ import annotations

import pytest

from benchmarks.rates import KINDS, Meter, Reading, mean, spread


def test_a_reading_has_rates_that_a_machine_can_have() -> None:
    reading = Meter(1, buffer_bytes=1 << 24).read()
    assert 1e8 < reading.read_bytes_s < 1e13
    assert set(reading.dot_flop_s) == set(KINDS)
    assert all(1e8 < rate < 1e14 for rate in reading.dot_flop_s.values())
    assert reading.to_json()["read_bytes_s"] == reading.read_bytes_s


def test_every_byte_of_the_buffer_is_read() -> None:
    meter = Meter(2, buffer_bytes=1 << 20)
    place, size = meter._data.ctypes.data, meter._data.nbytes
    for streams in (1, 4):
        meter._data[:] = 1
        assert meter._library.read_memory(place, size, 2, streams) == size // 8
        meter._data[-1] = 5
        assert meter._library.read_memory(place, size, 2, streams) == size // 8 + 4


def test_mean_and_spread_are_of_two_readings() -> None:
    one = Reading(20e9, {"f32": 1e9})
    other = Reading(30e9, {"f32": 3e9})
    assert mean(one, other) == Reading(25e9, {"f32": 2e9})
    assert spread(one, other) == spread(other, one) == pytest.approx(0.5)

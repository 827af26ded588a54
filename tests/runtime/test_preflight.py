"""How many blocks there will be, and what is said when it does not fit."""

import pytest

from graphopt.errors import MachineError
from graphopt.runtime import preflight as module
from graphopt.runtime.preflight import free_memory_bytes, preflight
from graphopt.runtime.scheduler import SchedulerLimits

from .fakes import small_plan

GIB = 1 << 30
LIMITS = SchedulerLimits(4, 32, 64, 64)  # 4 sequences of 32 blocks of 16 bytes at most
BUFFERS = 8 * 32 + 4 * 13 * 64


def decide(free: int, weights: int = 1000, **options: object):
    return preflight(small_plan(), weights, LIMITS, free_memory=lambda: free, **options)


def test_never_more_blocks_than_can_be_used():
    need = decide(64 * GIB)
    assert need.num_blocks == 4 * 32
    assert need.kv_bytes == 4 * 32 * 16
    assert need.buffers_bytes == BUFFERS
    assert need.total_bytes == 1000 + BUFFERS + need.kv_bytes


def test_by_default_a_quarter_of_what_is_free():
    assert decide(6400).num_blocks == 1600 // 16


def test_by_default_four_gib_at_most():
    limits = SchedulerLimits(1 << 20, 1 << 20, 1 << 20, 1 << 14)
    need = preflight(small_plan(), 0, limits, free_memory=lambda: 64 * GIB)
    assert need.kv_bytes == 4 * GIB


def test_what_is_asked_for_is_taken():
    assert decide(64 * GIB, kv_cache_memory=100).num_blocks == 6


def test_too_little_for_one_block_or_one_context():
    with pytest.raises(MachineError, match="KV memory is too small") as caught:
        decide(64 * GIB, kv_cache_memory=15)
    assert caught.value.next == "raise kv_cache_memory to 16 bytes"
    assert caught.value.got == "15 bytes for 0 blocks"
    with pytest.raises(MachineError) as caught:
        decide(64 * GIB, kv_cache_memory=31 * 16, needs_full_context=True)
    assert "raise kv_cache_memory to 512 bytes, or lower max_model_len" in str(caught.value)
    decide(64 * GIB, kv_cache_memory=32 * 16, needs_full_context=True)


@pytest.mark.parametrize(
    ("free", "weights", "knob"),
    [
        (10_000, 20_000, "smaller dtype"),
        (10_000, 9_000, "max_num_batched_tokens"),
        (10_000, 5_000, "kv_cache_memory to at most 1416 bytes"),
    ],
)
def test_what_does_not_fit_names_a_knob(free, weights, knob):
    with pytest.raises(MachineError, match="does not fit into memory") as caught:
        decide(free, weights, kv_cache_memory=2048)
    assert knob in caught.value.next
    assert "weights" in caught.value.got
    assert "KV" in caught.value.got


def test_the_control_group_counts_if_it_is_smaller(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_CGROUP", tmp_path)
    everything = free_memory_bytes()
    assert everything > 0
    (tmp_path / "memory.max").write_text("5000000\n")
    (tmp_path / "memory.current").write_text("1000000\n")
    assert free_memory_bytes() == 4_000_000
    (tmp_path / "memory.current").write_text("6000000\n")
    assert free_memory_bytes() == 0
    (tmp_path / "memory.max").write_text("max\n")
    assert free_memory_bytes() > 4_000_000

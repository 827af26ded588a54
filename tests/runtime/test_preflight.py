"""How many blocks there will be, and what is said when it does not fit."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.embedding import Embedding
from graphopt.errors import MachineError
from graphopt.ir.dtype import DType
from graphopt.runtime import preflight as module
from graphopt.runtime.preflight import (
    MemoryNeed,
    StepBytes,
    free_memory_bytes,
    host_room,
    memory_need,
    preflight,
)
from graphopt.runtime.scheduler import SchedulerLimits

from .fakes import small_plan

GIB = 1 << 30
LIMITS = SchedulerLimits(4, 32, 64, 64)  # 4 sequences of 32 blocks of 16 bytes at most
SLOTS = 4 * 13 * 32  # f32[R, 13], where a step of 32 tokens has 32 rows at most


def decide(free: int, weights: int = 1000, **options: object) -> MemoryNeed:
    return preflight(small_plan(), weights, LIMITS, room=host_room(free), **options)


def test_never_more_blocks_than_can_be_used():
    need = decide(64 * GIB)
    assert need.num_blocks == 4 * 32
    assert need.kv_bytes == 4 * 32 * 16
    assert need.step_bytes == StepBytes(SLOTS)
    assert need.total_bytes == 1000 + SLOTS + need.kv_bytes


def test_by_default_a_quarter_of_what_is_free():
    assert decide(6400).num_blocks == 1600 // 16


def test_by_default_four_gib_at_most():
    limits = SchedulerLimits(1 << 20, 1 << 20, 1 << 20, 1 << 14)
    need = preflight(small_plan(), 0, limits, room=host_room(64 * GIB))
    assert need.kv_bytes == 4 * GIB


def test_by_default_what_the_rest_leaves():
    need = decide(10_000, 8_000)
    assert need.kv_bytes == (10_000 - 8_000 - SLOTS) // 16 * 16 < 10_000 // 4


def test_what_is_asked_for_is_taken():
    assert decide(64 * GIB, kv_cache_memory=100).num_blocks == 6


def test_too_little_for_one_block_or_one_context():
    with pytest.raises(MachineError, match="KV memory is too small") as caught:
        decide(64 * GIB, kv_cache_memory=15)
    assert caught.value.next == "raise kv_cache_memory to 16 bytes"
    assert caught.value.got == "15 bytes for 0 blocks"
    with pytest.raises(MachineError) as caught:
        decide(64 * GIB, kv_cache_memory=31 * 16, needs_full_context=True)
    assert "raise kv_cache_memory to 512 bytes, or lower max_model_len to 62" in str(caught.value)
    decide(64 * GIB, kv_cache_memory=32 * 16, needs_full_context=True)


def test_the_table_names_every_part():
    need = decide(6400)
    rows = need.rows()
    assert [name for name, _, _ in rows] == ["weights", "slots", "KV", "in all", "free"]
    assert sum(nbytes for _, nbytes, _ in rows[:3]) == rows[3][1] == need.total_bytes
    assert rows[1][2] == "a step of 32 tokens, 4 sequences"
    assert rows[2][2] == "100 blocks of 2 tokens"
    assert str(need) == (
        "weights 1,000 bytes, slots 1,664 bytes, KV 1,600 bytes in 100 blocks; 6,400 bytes free"
    )


@pytest.mark.parametrize(
    ("free", "weights", "dtype", "knob"),
    [
        (10_000, 7_000, DType.F32, "lower kv_cache_memory to 1336 bytes (now 2048)"),
        (10_000, 9_000, DType.F32, "lower max_num_batched_tokens to 18 (now 32)"),
        (10_000, 9_850, DType.F32, "lower max_num_batched_tokens and max_num_seqs to 2"),
        (10_000, 20_000, DType.F32, "dtype bfloat16, in which its weights take about 10,000 bytes"),
        (10_000, 20_000, DType.BF16, "use a machine with 20,080 bytes free"),
    ],
)
def test_what_does_not_fit_names_a_knob(free, weights, dtype, knob):
    plan = replace(small_plan(), dtype=dtype)
    with pytest.raises(MachineError, match="does not fit into memory") as caught:
        preflight(plan, weights, LIMITS, kv_cache_memory=2048, room=host_room(free))
    assert knob in caught.value.next
    assert "weights" in caught.value.got
    assert "KV" in caught.value.got


def test_a_context_that_does_not_fit_names_one_that_does():
    with pytest.raises(MachineError) as caught:
        decide(3_000, needs_full_context=True)
    assert caught.value.next == "lower max_model_len to 42 (now 64)"
    shorter = replace(LIMITS, max_model_len=42)
    preflight(
        small_plan(), 1000, shorter, needs_full_context=True, room=host_room(3_000),
        kv_cache_memory=21 * 16,
    )  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(
    free=st.integers(0, 6000),
    weights=st.integers(0, 4000),
    kv=st.none() | st.integers(0, 4000),
    full=st.booleans(),
)
def test_turning_the_knobs_that_are_named_makes_it_fit(free, weights, kv, full):
    """Or it is said that only another machine or another dtype would do."""
    plan, limits, values = small_plan(), LIMITS, {"kv_cache_memory": kv}

    def tried() -> str:
        try:
            options = {**values, "needs_full_context": full, "room": host_room(free)}
            assert preflight(plan, weights, limits, **options).total_bytes <= free
        except MachineError as error:
            return error.next
        return ""

    for _ in range(6):
        knob = tried()
        if not knob:
            return
        if "dtype" in knob:
            least = SchedulerLimits(1, 1, 64, 64)
            left = memory_need(plan, weights, least, room=host_room(free)).left_bytes
            assert left < (32 if full else 1) * plan.bytes_per_block
            return
        first = re.split(r", or | \(now|, which", knob)[0]
        found = re.fullmatch(r"(?:lower|raise) (\w+)(?: and (\w+))? to (\d+)(?: bytes)?", first)
        assert found is not None, knob
        named = dict.fromkeys(filter(None, found.groups()[:2]), int(found[3]))
        if "kv_cache_memory" in named:
            values = named
        else:
            limits = replace(limits, **named)
    raise AssertionError("the knobs lead nowhere")


def test_a_room_that_is_not_told_is_measured(monkeypatch):
    monkeypatch.setattr(module, "free_memory_bytes", lambda: 6400)
    assert preflight(small_plan(), 1000, LIMITS) == decide(6400)


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


def test_texts_leave_with_their_last_token_so_few_blocks_are_enough():
    limits = SchedulerLimits(8, 20, 20, 16)
    plan = replace(small_plan(), embedding=Embedding(8, "mean", True, True))
    generating = preflight(small_plan(), 0, limits, room=host_room(64 * GIB))
    embedding = preflight(plan, 0, limits, room=host_room(64 * GIB))
    assert generating.num_blocks == 8 * 8
    assert embedding.num_blocks == 2 * (10 + 8 + 8)
    tight = preflight(plan, 0, limits, kv_cache_memory=160, room=host_room(64 * GIB))
    assert tight.num_blocks == 160 // plan.bytes_per_block

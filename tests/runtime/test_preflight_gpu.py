"""What a GPU has room for, and the knob that makes a model fit one."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.embedding import Embedding
from graphopt.errors import MachineError, UsageError
from graphopt.ir.dtype import DType
from graphopt.runtime.capture_choice import choose_captures
from graphopt.runtime.dispatch import BatchShape
from graphopt.runtime.executors.gpu.places import input_offsets
from graphopt.runtime.executors.gpu.sampler import sampling_bytes
from graphopt.runtime.plan_check import REACHES
from graphopt.runtime.preflight import memory_need, preflight
from graphopt.runtime.preflight_gpu import RESERVE_BYTES, gpu_room, gpu_step_bytes
from graphopt.runtime.scheduler import SchedulerLimits

from .gpu_plan import KERNELS, R, gpu_plan

GIB = 1 << 30
PLAN = gpu_plan()
LIMITS = SchedulerLimits(32, 1024, 64, 64)
STEP = gpu_step_bytes(PLAN, KERNELS)


def test_the_room_is_a_share_of_all_and_no_more_than_is_free():
    alone = gpu_room(79 * GIB, 80 * GIB)
    assert alone.free_bytes == 72 * GIB
    assert alone.utilization == 0.9
    assert gpu_room(79 * GIB, 80 * GIB, 0.5).free_bytes == 40 * GIB
    beside_another = gpu_room(30 * GIB, 80 * GIB)
    assert beside_another.free_bytes == beside_another.most_bytes == 30 * GIB - RESERVE_BYTES
    assert gpu_room(30 * GIB, 80 * GIB, kv_cache_memory=GIB).utilization == 1.0
    assert gpu_room(79 * GIB, 80 * GIB, 0.5, GIB).free_bytes == 40 * GIB
    assert gpu_room(1, 80 * GIB).free_bytes == 0
    assert str(alone) == (
        "73,728.0 MiB of the GPU's 81,920.0 MiB to take (gpu_memory_utilization 0.9)"
    )


@pytest.mark.parametrize("share", [0.0, -0.1, 1.01, float("nan"), float("inf")])
def test_a_share_is_a_share(share: float):
    with pytest.raises(UsageError, match="share"):
        gpu_room(1, 2, share)


def test_what_steps_take():
    found = STEP(LIMITS)
    assert found.slots == 64 * 52  # logits of as many rows as there may be
    assert found.graphs == choose_captures(PLAN, KERNELS, LIMITS).total_bytes
    # One program needs 256 bytes for descriptors, and the largest step has 17 times 8 of them.
    assert found.workspaces == 512 + 1024 + 17 * 8 * 256
    tables = 32 * 32 * 4
    assert found.inputs == input_offsets(1024, LIMITS.largest_step(2))[1] + sampling_bytes(64, 13)
    assert found.inputs > tables + 4 * 8 * 1024 + 64 * 180
    assert found.total == found.slots + found.graphs + found.workspaces + found.inputs


def test_a_plan_that_embeds_samples_nothing():
    embedding = Embedding(8, "mean", True, True)
    plan = replace(PLAN, embedding=embedding, inputs={**PLAN.inputs, REACHES: 0})
    found = gpu_step_bytes(plan, KERNELS)(LIMITS)
    assert found.inputs == input_offsets(1024, LIMITS.largest_step(2), reaches=True)[1]
    assert found.graphs < STEP(LIMITS).graphs


def test_the_sampler_works_on_some_rows_at_a_time():
    sample = replace(KERNELS["sample"], workspace=R * (1 << 20))
    found = gpu_step_bytes(PLAN, {**KERNELS, "sample": sample})
    limits = replace(LIMITS, max_rows=1024)
    most = found(limits).workspaces - STEP(limits).workspaces
    assert most == 256 << 20  # as much as it works in at most, and not 1 GiB for 1024 rows


def test_kv_takes_what_the_rest_leaves():
    room = gpu_room(3 * GIB, 4 * GIB, 0.7)
    limits = replace(LIMITS, max_num_seqs=1024, max_num_batched_tokens=1024, max_rows=1024)
    wide = replace(PLAN, limits=replace(PLAN.limits, max_rows=1024, max_model_len=1 << 18))
    limits = replace(limits, max_model_len=1 << 18)
    need = preflight(wide, GIB, limits, room=room, step_bytes=STEP)
    assert need.left_bytes - need.kv_bytes < wide.bytes_per_block
    assert need.total_bytes <= room.free_bytes
    less = preflight(wide, GIB, limits, room=room, step_bytes=STEP, kv_cache_memory=160)
    assert less.num_blocks == 10


def test_no_more_blocks_than_can_be_used():
    need = preflight(PLAN, GIB, LIMITS, room=gpu_room(70 * GIB, 80 * GIB), step_bytes=STEP)
    assert need.num_blocks == 32 * 32
    parts = {name: nbytes for name, nbytes, _ in need.rows()}
    assert list(parts) == (
        ["weights", "slots", "inputs", "workspaces", "graphs", "KV", "in all", "free"]
    )  # fmt: skip
    assert parts["in all"] == sum(list(parts.values())[:6])


def told(free: int, total: int, weights: int, plan=PLAN, **options: object) -> str:
    room = gpu_room(free, total, options.pop("utilization", None))
    with pytest.raises(MachineError, match="does not fit") as caught:
        preflight(plan, weights, LIMITS, room=room, step_bytes=STEP, **options)
    assert "graphs" in caught.value.got
    assert "of the GPU's" in caught.value.got
    return caught.value.next


def test_what_does_not_fit_names_a_knob():
    # 30 GiB of weights in half of 40 GiB, where 0.8 of it would do.
    assert told(39 * GIB, 40 * GIB, 30 * GIB, utilization=0.5) == (
        "raise gpu_memory_utilization to 0.76 (now 0.5)"
    )
    assert told(39 * GIB, 40 * GIB, 39 * GIB, replace(PLAN, dtype=DType.BF16)).startswith(
        "use a GPU with 39,9"
    )
    assert "dtype bfloat16" in told(39 * GIB, 40 * GIB, 39 * GIB)
    step = STEP(LIMITS).total
    tight = int(4 * GIB * 0.9) - step + 1000
    assert told(RESERVE_BYTES + 3 * GIB, 4 * GIB, 3 * GIB - step // 2).startswith(
        "lower max_num_batched_tokens"
    )
    assert told(4 * GIB, 4 * GIB, tight).startswith("raise gpu_memory_utilization to 0.91")


@settings(max_examples=150, deadline=None)
@given(
    free=st.integers(0, 3 * RESERVE_BYTES),
    others=st.integers(0, RESERVE_BYTES),
    share=st.none() | st.floats(0.01, 1.0),
    weights=st.integers(0, 2 * RESERVE_BYTES),
    kv=st.none() | st.integers(16, 4000),
    full=st.booleans(),
)
def test_turning_the_knobs_that_are_named_makes_it_fit(free, others, share, weights, kv, full):
    """Or it is said that only another GPU or another dtype would do."""
    total, limits = free + others + 1, LIMITS
    for _ in range(6):
        room = gpu_room(free, total, share, kv)
        try:
            need = preflight(
                PLAN, weights, limits, room=room, step_bytes=STEP, kv_cache_memory=kv,
                needs_full_context=full,
            )  # fmt: skip
        except MachineError as error:
            knob = error.next
        else:
            assert need.total_bytes <= room.free_bytes <= free
            return
        if "dtype" in knob:
            least = memory_need(
                PLAN, weights, SchedulerLimits(1, 1, 64, 64), room=room, step_bytes=STEP
            )
            assert least.left_bytes < (32 if full else 1) * PLAN.bytes_per_block
            return
        first = re.split(r", or | \(now|, which", knob)[0]
        found = re.fullmatch(r"(?:lower|raise) (\w+)(?: and (\w+))? to ([\d.]+)(?: bytes)?", first)
        assert found is not None, knob
        names = tuple(filter(None, found.groups()[:2]))
        if names == ("gpu_memory_utilization",):
            share = float(found[3])
        elif names == ("kv_cache_memory",):
            kv = int(found[3])
        else:
            limits = replace(limits, **dict.fromkeys(names, int(found[3])))
    raise AssertionError("the knobs lead nowhere")


def test_a_trace_counts():

    one = gpu_step_bytes(PLAN, KERNELS, {BatchShape(3, 3, 3, 1, 1): 9})
    assert one(LIMITS).graphs < STEP(LIMITS).graphs

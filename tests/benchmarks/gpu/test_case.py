"""Results are poisoned, guarded and compared; a batch says where its tokens lie."""

from __future__ import annotations

import pytest
import torch

from benchmarks.gpu.batch import Batch, decode, encoder, prefill
from benchmarks.gpu.case import POISON, Result, relative_error
from benchmarks.gpu.region import new_slots

CPU = torch.device("cpu")


def test_results_are_poisoned_again_and_again() -> None:
    for dtype in (torch.bfloat16, torch.int64, torch.bool):
        result = Result.poisoned("y", (3, 5), dtype, CPU)
        for _ in range(2):
            if dtype is torch.bfloat16:
                assert result.tensor.isnan().all()
            elif dtype is torch.int64:
                assert (result.tensor == POISON).all()
            assert result.is_guard_intact()
            result.tensor.fill_(1)
            assert result.is_guard_intact()
            result.reset()


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64, torch.bool])
def test_a_write_past_the_end_is_seen(dtype: torch.dtype) -> None:
    result = Result.poisoned("y", (2, 4), dtype, CPU)
    assert result.whole is not None
    result.whole[8] = 1
    assert not result.is_guard_intact()


def test_state_is_put_back() -> None:
    memory = torch.zeros(4)
    result = Result("keys", memory, None, before=memory.clone())
    memory[1] = 3.0
    result.reset()
    assert memory.tolist() == [0.0] * 4


def test_a_nan_is_infinitely_far_off() -> None:
    one = torch.ones(3)
    assert relative_error(one * 1.01, one) == pytest.approx(0.01, rel=1e-3)
    assert relative_error(torch.tensor([1.0, float("nan"), 1.0]), one) == float("inf")


def test_slots_of_a_batch_are_its_own() -> None:
    batch = Batch((5, 1, 0, 17), (5, 23, 4, 30), 16, padding=2)
    tables = batch.tables(torch.Generator().manual_seed(0), CPU)
    assert tables.shape == (4, 2)
    slots = torch.cat([batch.slots(tables, sequence) for sequence in range(4)])
    assert len(set(slots.tolist())) == sum(batch.lengths)
    assert int(slots.max()) < batch.num_blocks * batch.block
    # What a sequence does not have is a page that nobody writes.
    assert int(tables[0, 1]) not in {slot // batch.block for slot in slots.tolist()}
    assert batch.starts(CPU).tolist() == [0, 5, 6, 6, 23]
    new = new_slots(batch, tables)
    assert len(new) == batch.sizes["T"] == 25
    assert new[-2:].tolist() == [-1, -1]
    assert new[5] == batch.slots(tables, 1)[-1]


def test_pairs_of_queries_and_tokens() -> None:
    assert prefill(4, 16).pairs() == 10
    assert prefill(2, 16, context=3).pairs() == 9
    assert decode(3, 7, 16).pairs() == 21
    assert prefill(4, 16).pairs(window=2) == 7
    assert encoder(2, 5, 16).pairs() == 50
    assert encoder(2, 5, 16).pairs(window=2) == 26


def test_how_far_rows_see() -> None:
    batch = Batch((3, 1, 0), (5, 9, 4), 16, padding=1, span=(1, 4))
    assert batch.reaches(CPU).tolist() == [4, 4, 0, 0, 1 << 30]
    assert batch.pairs() == 4 + 4 + 5 + 9
    assert not batch.is_whole
    assert not prefill(4, 16).is_whole
    assert encoder(3, 4, 16).is_whole
    assert encoder(3, 4, 16).reaches(CPU).tolist() == [4] * 12

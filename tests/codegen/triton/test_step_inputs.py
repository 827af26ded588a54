"""A decode step's inputs, made of the step before: as NumPy makes them, and as a runner does."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch

from graphopt.codegen.triton.compile import compile_variant
from graphopt.codegen.triton.interpreter import run
from graphopt.codegen.triton.kernel import TritonKernel
from graphopt.codegen.triton.resources import resources_of
from graphopt.codegen.triton.step_inputs import advancer, taker
from graphopt.ir.dtype import DType
from graphopt.ir.types import LayerState
from graphopt.loop_kernels import (
    ADVANCE_OPERANDS,
    ADVANCE_RESULTS,
    ADVANCED,
    FROM_HOST,
    IN_TABLE,
    PADDING,
)
from graphopt.runtime.executor import StepInputs
from graphopt.runtime.executors.padding import padded
from graphopt.runtime.model_runner import ModelRunner
from graphopt.runtime.sampling_params import SamplingParams
from graphopt.runtime.scheduler import Scheduled, SchedulerLimits
from graphopt.runtime.sequence import Request, Sequence
from graphopt.safetensors_io import numpy_dtype
from tests.codegen.triton.attention_batch import Case, computed, kernel_of, make_batch, variants_for
from tests.runtime.fakes import HashExecutor

VOCAB = 1000
GUARD = 5  # numbers after each array that must stay as they are
POISON = -77
MADE = ("token_ids", "positions", "slots", "starts", "lengths")
MADE_OF_ROWS = (
    "token_ids", "positions", "slots", "lengths", "counters", "sources", "new_blocks",
)  # fmt: skip
Arrays = dict[str, Any]


@dataclass(frozen=True)
class Device:
    """Memory of the kernel, which stays where it is from step to step.

    Attributes:
        arrays: operands and results, each with a guard after it.
        rows: S, padding among them.
        columns: P.
    """

    arrays: dict[str, torch.Tensor]
    rows: int
    columns: int

    @classmethod
    def of(cls, rows: int, columns: int, given: Arrays) -> Device:
        """Operands as they are given, and results of poison."""
        arrays = {}
        for name, dtype in ADVANCE_OPERANDS.items():
            array = np.asarray(given[name], numpy_dtype(dtype)).ravel()
            arrays[name] = torch.from_numpy(np.append(array, [POISON] * GUARD).astype(array.dtype))
        for name, dtype in ADVANCE_RESULTS.items():
            count = rows + (name == "starts") + GUARD
            arrays[name] = torch.from_numpy(np.full(count, POISON, numpy_dtype(dtype)))
        return cls(arrays, rows, columns)

    def advance(self, kernel: TritonKernel) -> Arrays:
        """What a launch leaves in memory; nothing but its results has changed."""
        before = {name: one.clone() for name, one in self.arrays.items()}
        sizes = {"S": self.rows, "P": self.columns}
        run(kernel, kernel.variant(sizes), list(self.arrays.values()), sizes)
        for name, one in self.arrays.items():
            assert (one[-GUARD:] == POISON).all(), name
            if name in ADVANCE_OPERANDS and name not in ADVANCED:
                assert torch.equal(one, before[name]), name
        return {name: one[:-GUARD].numpy() for name, one in self.arrays.items()}


def reference(given: Arrays, columns: int, block_size: int) -> Arrays:
    """What the kernel has to make, row after row."""
    rows = len(given["sources"])
    found: Arrays = {"rows": list(range(rows)), "starts": list(range(rows + 1))}
    tables = np.array(given["tables"])
    found |= {name: [] for name in MADE_OF_ROWS}
    for row, source in enumerate(given["sources"]):
        length, counter = int(given["lengths"][row]), int(given["counters"][row])
        if source == PADDING:
            made = (0, 0, -1, 0, counter, PADDING, int(given["new_blocks"][row]))
        else:
            token = int(given["host_tokens"][row] if source < 0 else given["sampled"][source])
            page, offset = divmod(length, block_size)
            if given["new_blocks"][row] != IN_TABLE:
                tables[row][page] = given["new_blocks"][row]
            slot = int(tables[row][page]) * block_size + offset
            made = (token, length, slot, length + 1, counter + 1, row, IN_TABLE)
        for name, value in zip(MADE_OF_ROWS, made, strict=True):
            found[name].append(value)
    return {**found, "tables": tables.ravel()}


def random_step(
    seed: int, rows: int, real: int, columns: int, block_size: int, sampled: int
) -> Arrays:
    """A batch of ``real`` sequences and padding after it; what nobody may read is poison."""
    rng = np.random.default_rng(seed)
    most = columns * block_size - 1
    borders = [0, 1, block_size - 1, block_size, most - block_size, most]
    lengths = np.where(
        rng.random(rows) < 0.5, rng.choice(borders, rows), rng.integers(0, most + 1, rows)
    ).clip(0, most)
    sources = np.where(rng.random(rows) < 0.2, FROM_HOST, rng.integers(0, sampled, rows))
    sources[real:] = PADDING
    host = np.where(sources == FROM_HOST, rng.integers(0, VOCAB, rows), 10**15)
    tables = np.full((rows, columns), -(10**6))
    for row in range(real):
        used = lengths[row] // block_size + 1
        tables[row, :used] = rng.integers(0, 2**31 // block_size, used)
    begun = rng.integers(0, 2**31 // block_size, rows)
    new_blocks = np.where(rng.random(rows) < 0.5, begun, IN_TABLE)
    new_blocks[real:] = POISON
    lengths[real:] = POISON
    return {
        "sampled": rng.integers(0, VOCAB, sampled),
        "sources": sources,
        "host_tokens": host,
        "tables": tables,
        "new_blocks": new_blocks,
        "lengths": lengths,
        "counters": rng.integers(0, 2**62, rows),
    }


def same(found: Arrays, expected: Arrays) -> None:
    for name, values in expected.items():
        assert np.array_equal(found[name], values), name


@pytest.mark.interpreted
@pytest.mark.parametrize("rows", [1, 2, 31, 127, 128, 129, 300])
@pytest.mark.parametrize("block_size", [1, 13, 16])
def test_a_step_is_the_one_after_the_step_before(rows: int, block_size: int) -> None:
    kernel = advancer(VOCAB, block_size)
    for seed, columns in enumerate((1, 2, 7, 64)):
        real = (rows, max(0, rows - 3), (rows + 1) // 2, 0)[seed]
        given = random_step(seed, rows, real, columns, block_size, sampled=rows + seed)
        found = Device.of(rows, columns, given).advance(kernel)
        same(found, reference(given, columns, block_size))


def prepared(runner: ModelRunner, tokens: list[list[int]], tables: list[list[int]]) -> StepInputs:
    """What a runner makes of sequences of which all tokens but the last are computed."""
    batch = []
    for known, blocks in zip(tokens, tables, strict=True):
        request = Request("r", np.array(known), None, SamplingParams(), 0, 0.0)
        one = Sequence(request, 0, 0, 99)
        one.computed = one.scored = len(known) - 1
        one.table.extend(blocks)
        batch.append(Scheduled.of(one, 1))
    inputs, _ = runner.prepare(tuple(batch))
    return inputs


@pytest.mark.interpreted
def test_steps_follow_one_another_as_a_runner_makes_them() -> None:
    block_size, rows, columns = 4, 6, 8
    rng = np.random.default_rng(4)
    runner = ModelRunner(HashExecutor(block_size=block_size), SchedulerLimits(8, 16, 16, 32), 32)
    free = iter(rng.permutation(100).tolist())
    tokens = [rng.integers(0, VOCAB, length).tolist() for length in (2, 4, 5, 17)]
    tables = [[next(free) for _ in range(-(-len(one) // block_size))] for one in tokens]
    given = {
        "sampled": np.full(rows, POISON),
        "sources": [FROM_HOST] * 4 + [PADDING] * 2,
        "host_tokens": [*(one[-1] for one in tokens), POISON, POISON],
        "tables": np.full((rows, columns), -9),
        "new_blocks": [IN_TABLE] * rows,
        "lengths": [*(len(one) - 1 for one in tokens), 0, 0],
        "counters": range(rows),
    }
    device, kernel = Device.of(rows, columns, given), advancer(VOCAB, block_size)
    on_device = device.arrays["tables"][:-GUARD].view(rows, columns)
    for row, blocks in enumerate(tables):
        on_device[row, : len(blocks)] = torch.tensor(blocks)
    for step in range(1, 13):
        inputs = prepared(runner, tokens, tables)
        found = device.advance(kernel)
        sizes = {"T": rows, "R": rows, "S": rows, "P": columns}
        expected = padded(inputs, sizes)
        same(found, {name: getattr(expected, name) for name in MADE})
        for row, blocks in enumerate(tables):
            assert on_device[row, : len(blocks)].tolist() == blocks
        assert found["rows"].tolist() == list(range(rows))  # of padding any will do
        assert found["counters"].tolist() == [step, step + 1, step + 2, step + 3, 4, 5]
        # From here on only the device knows the tokens.
        sampled = rng.integers(0, VOCAB, rows)
        device.arrays["sampled"][:-GUARD] = torch.from_numpy(sampled)
        assert device.arrays["sources"][:-GUARD].tolist() == [0, 1, 2, 3, PADDING, PADDING]
        for row, (one, blocks) in enumerate(zip(tokens, tables, strict=True)):
            one.append(int(sampled[row]))
            if len(one) > len(blocks) * block_size:
                blocks.append(next(free))
                device.arrays["new_blocks"][row] = blocks[-1]


@pytest.mark.interpreted
def test_sequences_that_come_and_go_keep_their_tokens() -> None:
    # Rows 2 and 0 of the step before go on, in that order; one comes in with a token of its own.
    given = {
        "sampled": [11, 12, 13],
        "sources": [2, 0, FROM_HOST, PADDING],
        "host_tokens": [0, 0, 99, 0],
        "tables": [[5, 6], [8, 9], [3, 4], [0, 0]],
        "new_blocks": [IN_TABLE] * 4,
        "lengths": [3, 4, 7, 12],
        "counters": [1, 2, 0, 4],
    }
    found = Device.of(4, 2, given).advance(advancer(VOCAB, 4))
    assert found["token_ids"].tolist() == [13, 11, 99, 0]
    assert found["positions"].tolist() == [3, 4, 7, 0]
    assert found["slots"].tolist() == [23, 36, 19, -1]
    assert found["lengths"].tolist() == [4, 5, 8, 0]
    assert found["counters"].tolist() == [2, 3, 1, 4]


@pytest.mark.interpreted
def test_a_full_table_is_neither_passed_nor_written_over() -> None:
    given = {
        "sampled": [5, 6],
        "sources": [0, 1],
        "host_tokens": [0, 0],
        "tables": [[2, 3], [4, 5]],
        "new_blocks": [IN_TABLE] * 2,
        "lengths": [7, 8],
        "counters": [0, 0],
    }
    device, kernel = Device.of(2, 2, given), advancer(VOCAB, 4)
    found = device.advance(kernel)
    assert found["slots"].tolist() == [15, -1]  # the last slot, and none
    for _ in range(2):
        assert found["lengths"].tolist() == [8, 8]
        assert found["positions"].tolist() == [7, 7]
        found = device.advance(kernel)
        assert found["slots"].tolist() == [-1, -1]


@pytest.mark.interpreted
def test_what_is_no_token_is_not_looked_up() -> None:
    given = {
        "sampled": [VOCAB, VOCAB - 1, -1],
        "sources": [0, 1, 2, FROM_HOST],
        "host_tokens": [0, 0, 0, VOCAB + 5],  # one without a logit, but known
        "tables": [[0]] * 4,
        "new_blocks": [IN_TABLE] * 4,
        "lengths": [1] * 4,
        "counters": [0] * 4,
    }
    found = Device.of(4, 1, given).advance(advancer(VOCAB, 16))
    assert found["token_ids"].tolist() == [0, VOCAB - 1, 0, VOCAB + 5]


@pytest.mark.interpreted
@pytest.mark.parametrize("window", [0, pytest.param(5, marks=pytest.mark.full)])
def test_attention_of_padding_reads_no_state(window: int) -> None:
    # A row of padding is a token of a sequence of none; its table is -1, and its memory NaN.
    case = Case(LayerState(1, 16, 16, DType.F32), 2, window=window)
    batch = make_batch(case, [20, 0, 33, 0], [1, 1, 1, 1], 1, padding=0)
    alone = replace(
        batch,
        queries=batch.queries[::2],
        starts=batch.starts[:3],
        lengths=batch.lengths[::2],
        tables=batch.tables[::2],
    )
    kernel = kernel_of(case)
    for variant in variants_for(kernel, batch.sizes):
        found = computed(batch, kernel, variant)
        assert (found[::2] - alone.expected()).abs().max() < 1e-5


@pytest.mark.interpreted
@pytest.mark.parametrize("tokens", [1, 2, 127, 128, 129, 300])
def test_tokens_are_taken_where_they_lie(tokens: int) -> None:
    rng, kernel = np.random.default_rng(tokens), taker(VOCAB)
    for sampled in (1, tokens):
        sources = np.where(rng.random(tokens) < 0.4, FROM_HOST, rng.integers(0, sampled, tokens))
        drawn, given = rng.integers(0, VOCAB, sampled), rng.integers(0, VOCAB, tokens)
        drawn[0] = rng.choice([drawn[0], VOCAB, -1])  # a row that failed
        sound = np.where((drawn < 0) | (drawn >= VOCAB), 0, drawn)
        expected = np.where(sources < 0, given, sound[sources])
        own = torch.from_numpy(np.append(given, [POISON] * GUARD))
        pointers = [torch.from_numpy(drawn), torch.from_numpy(sources), own, own]
        run(kernel, kernel.variants[0], pointers, {"T": tokens})
        assert own[:-GUARD].tolist() == expected.tolist()
        assert (own[-GUARD:] == POISON).all()


def test_one_program_has_a_row_for_each_thread() -> None:
    ((advance,), (take,)) = advancer(VOCAB, 16).variants, taker(VOCAB).variants
    for rows, programs in ((1, 1), (127, 1), (128, 2), (300, 3)):  # starts has one more
        assert advance.programs({"S": rows, "P": 1}) == (programs, 1, 1)
    for tokens, programs in ((1, 1), (128, 1), (129, 2)):
        assert take.programs({"T": tokens}) == (programs, 1, 1)


@pytest.mark.parametrize("arch", [80, 89, 90])
def test_they_take_little(arch: int) -> None:
    for kernel in (advancer(128256, 16), taker(128256)):
        found = resources_of(compile_variant(kernel, kernel.variants[0], arch))
        assert found.problems() == []
        assert found.registers <= 40
        assert found.shared_bytes == 0


def test_each_vocabulary_and_block_has_its_own() -> None:
    one = advancer(VOCAB, 16)
    assert one.text != advancer(VOCAB + 1, 16).text
    assert one.variants[0] == replace(
        advancer(VOCAB, 32).variants[0], constants=one.variants[0].constants
    )

"""Whole plans in Triton's interpreter: token by token what transformers says, captured or not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch

from graphopt.artifact import Artifact
from graphopt.errors import ArtifactError, DisagreementError, MachineError, UsageError
from graphopt.ir.interpreter import Interpreter
from graphopt.ir.parser import parse_graph
from graphopt.ir.reference import PagedState
from graphopt.launch import LaunchKernel, LaunchVariant
from graphopt.runtime.capture_plan import NOTHING_CAPTURED, CapturePlan
from graphopt.runtime.executor import OverlappingExecutor, Ragged, SamplingInputs, StepInputs
from graphopt.runtime.executors.gpu.executor import CudaExecutor
from graphopt.runtime.sampler import sample
from graphopt.runtime.scheduler import SchedulerLimits
from tests.models.harness import generated
from tests.runtime.executors.gpu.interpreted_artifact import (
    greedy_through_engine,
    reference_of,
    tiny,
)
from tests.runtime.executors.gpu.interpreted_device import InterpretedDevice

LIMITS = SchedulerLimits(max_num_seqs=4, max_num_batched_tokens=12, max_rows=12, max_model_len=48)
# The first comes in two chunks, the second of them beside the others.
PROMPTS = [[5, 6, 7, 8, 9, 10, 11, 3, 4, 5, 9, 8, 7, 6, 5, 4, 2], [3, 4, 5], [11]]
COUNT = 4


@dataclass
class Opened:
    """An executor on its device."""

    device: InterpretedDevice
    executor: CudaExecutor


@pytest.fixture
def opened() -> Iterator[Any]:
    """Opens executors, and looks that each gives back all memory, with nothing written past it."""
    made: list[Opened] = []

    def open_(
        artifact: Artifact, captured: CapturePlan = NOTHING_CAPTURED, **device: Any
    ) -> Opened:
        here = InterpretedDevice(**device)
        made.append(Opened(here, CudaExecutor(artifact, here, LIMITS, captured)))
        return made[-1]

    yield open_
    for one in made:
        one.executor.close()
        assert one.device.blocks == {}


@pytest.fixture(scope="module")
def expected() -> list[list[int]]:
    reference = reference_of(tiny())
    return [generated(reference, prompt, COUNT) for prompt in PROMPTS]


def step(tokens: list[list[int]], starts: list[int], blocks: list[list[int]]) -> StepInputs:
    """New tokens of sequences, all of their rows wanted; blocks of 16."""
    counts = [len(new) for new in tokens]
    positions = [
        start + n for start, count in zip(starts, counts, strict=True) for n in range(count)
    ]
    owners = [table for table, count in zip(blocks, counts, strict=True) for _ in range(count)]
    slots = [table[p // 16] * 16 + p % 16 for table, p in zip(owners, positions, strict=True)]
    return StepInputs(
        token_ids=np.concatenate(tokens),
        positions=np.array(positions),
        rows=np.arange(sum(counts)),
        slots=np.array(slots),
        starts=np.cumsum([0, *counts]).astype(np.int32),
        lengths=np.add(starts, counts).astype(np.int32),
        tables=np.array(blocks, np.int32),
    )


MIXED = step([[5, 6, 7, 8, 9], [3], [11, 12]], [0, 0, 0], [[4, 0], [1, 0], [7, 0]])


def oracle(artifact: Artifact, inputs: StepInputs) -> np.ndarray:
    """The step's logits by the interpreter of graphs."""
    graph = parse_graph(artifact.graph_text())
    weights = {
        value.name: torch.from_numpy(np.array(artifact.weights.view(value.name)))
        for value in graph.weights
    }
    state = PagedState.allocate(artifact.plan.state, 8, 16)
    names = ("token_ids", "positions", "rows", "slots", "starts", "lengths", "tables")
    given = {name: torch.from_numpy(getattr(inputs, name)) for name in names}
    (logits,) = Interpreter(graph, weights).run({**given, "kv": state})
    return logits.numpy()


@pytest.mark.interpreted
def test_tokens_are_those_of_transformers(opened: Any, expected: list[list[int]]) -> None:
    one = opened(tiny())
    assert greedy_through_engine(one.executor, LIMITS, PROMPTS, COUNT) == expected
    assert "sample" in one.device.launched


@pytest.mark.interpreted
@pytest.mark.parametrize("captured", [CapturePlan((4,), (), 3, (0,), ()), NOTHING_CAPTURED])
def test_steps_set_out_before_the_host_knows_their_tokens(
    opened: Any, captured: CapturePlan
) -> None:
    one = opened(tiny(), captured)
    one.executor.allocate(8)
    assert isinstance(one.executor, OverlappingExecutor)
    first = step([[5, 6, 7, 8, 9], [3], [11, 12]], [0, 0, 0], [[4, 0], [1, 0], [7, 0]])
    alone = one.executor.run(first, SamplingInputs(8)).token_ids
    drawn = [int(alone[row]) for row in (4, 5, 7)]
    # In another order, and one of them known to the host.
    tokens = [[drawn[2]], [drawn[0]], [drawn[1]]]
    second = step(tokens, [2, 5, 1], [[7, 0], [4, 0], [1, 0]])
    known = one.executor.run(second, SamplingInputs(3)).token_ids

    one.executor.start(first, SamplingInputs(8), np.full(8, -1))
    sources = np.array([7, -1, 5])
    unknown = replace(second, token_ids=np.where(sources < 0, second.token_ids, 0))
    one.executor.start(unknown, SamplingInputs(3), sources)
    assert one.device.launched[-1] == "sample", "all is under way before anybody waits"
    np.testing.assert_array_equal(one.executor.finish().token_ids, alone)
    np.testing.assert_array_equal(one.executor.finish().token_ids, known)
    wholes = 2 * len(captured.decode_sizes)
    assert one.device.launched.count("take") == (0 if wholes else 1)
    assert one.device.replays == one.device.launched.count("advance") == wholes


@pytest.mark.interpreted
def test_padded_replays_give_the_same_tokens(opened: Any, expected: list[list[int]]) -> None:
    captured = CapturePlan((2, 4), (6, 12), 3, (0, 0), (0, 0))
    one = opened(tiny(), captured)
    assert greedy_through_engine(one.executor, LIMITS, PROMPTS, COUNT) == expected
    assert one.executor.captures.plan == captured, "all sizes could be captured"
    assert one.device.replays > COUNT
    assert one.executor.captures.measured.total_bytes > 0


def test_all_memory_that_graphs_use_is_among_the_addresses(opened: Any) -> None:
    one = opened(tiny(), CapturePlan((1, 2, 4), (4, 12), 3, (0,) * 3, (0,) * 2))
    one.executor.allocate(8)
    device, addresses = one.device, one.executor.addresses()
    assert len(device.graphs) == 3 + 2 * sum(piece.captured for piece in tiny().plan.pieces[:-1])
    known = {device.block_of(address) for address in addresses.values()}
    assert {device.block_of(pointer) for pointer in device.captured} == known
    weights = {f"weight {value.name}" for value in parse_graph(tiny().graph_text()).weights}
    assert weights < addresses.keys()
    assert {"the arena of slots", "a step's inputs", "keys of layer 0"} < addresses.keys()
    assert {"parameters of sampling", "lists of sampling", "sampled tokens"} < addresses.keys()


@pytest.mark.interpreted
def test_a_graph_whose_sampling_lies_elsewhere_is_refused_or_captured_again(opened: Any) -> None:
    one = opened(tiny(), CapturePlan((4,), (), 3, (0,), ()))
    one.executor.allocate(8)
    decode = step([[5], [6]], [0, 0], [[1], [2]])
    plain = one.executor.run(decode, SamplingInputs(2))
    many = Ragged(np.array([0, 0, 70000]), np.zeros(70000, np.int64), np.zeros(70000, np.float32))
    listed = one.executor.run(decode, SamplingInputs(2, bias=many))
    np.testing.assert_array_equal(listed.token_ids, plain.token_ids)
    assert one.device.captures == 2
    one.executor._sampler._moved = lambda: None  # nobody hears of it
    one.executor.captures.drop()
    one.executor.captures.make_all(lambda *_: None)
    wanted = SamplingInputs(2, num_logprobs=np.array([-1, 50]))
    with pytest.raises(DisagreementError, match="no longer there") as caught:
        one.executor.run(decode, wanted)
    assert "reported tokens" in str(caught.value)


@pytest.mark.interpreted
@pytest.mark.parametrize(
    ("captured", "kernel", "where"),
    [
        (
            NOTHING_CAPTURED,
            "attention",
            "p1 (attention of model.layers.0.self_attn) of a step of 8 tokens in 3 sequences",
        ),
        (NOTHING_CAPTURED, "sample", "sampling of a step of 8 tokens in 3 sequences"),
        (
            CapturePlan((4,), (), 3, (0,), ()),
            "attention",
            "p1 (attention of model.layers.0.self_attn) of the captured decode of 2 sequences",
        ),
        (
            CapturePlan((4,), (), 3, (0,), ()),
            "sample",
            "sampling of the captured decode of 2 sequences",
        ),
    ],
)
def test_a_step_that_hangs_is_named(captured: CapturePlan, kernel: str, where: str) -> None:
    device = InterpretedDevice()
    executor = CudaExecutor(tiny(), device, LIMITS, captured, watchdog_seconds=5.0)
    executor.allocate(8)
    decode = step([[5], [6]], [0, 0], [[1], [2]])
    assert len(executor.run(decode, SamplingInputs(2)).token_ids) == 2
    device.hangs_in = kernel
    hanging, rows = (decode, 2) if captured.decode_sizes else (MIXED, 8)
    executor.start(hanging, SamplingInputs(rows), np.full(len(hanging.token_ids), -1))
    executor.start(decode, SamplingInputs(2), np.full(2, -1))
    with pytest.raises(MachineError, match="a step on the GPU does not end") as caught:
        executor.finish()
    assert caught.value.where == where
    for again in (executor.finish, lambda: executor.run(decode, SamplingInputs(2))):
        with pytest.raises(MachineError, match="has not answered since"):
            again()
    executor.close()
    assert device.blocks == {}


@pytest.mark.interpreted
@pytest.mark.full
@pytest.mark.parametrize("seed", range(6))
def test_padding_changes_neither_logits_nor_memory(opened: Any, seed: int) -> None:
    """Random steps, one after the other, plainly and padded to one captured size."""
    rng = np.random.default_rng(seed)
    both = [opened(tiny()), opened(tiny(), CapturePlan((4,), (12,), 3, (0,), (0,)))]
    for one in both:
        one.executor.allocate(12)
    for _ in range(3):
        counts = [1] * int(rng.integers(1, 4)) if rng.random() < 0.5 else [int(rng.integers(2, 8))]
        tables = rng.permutation(12)[: 2 * len(counts)].reshape(-1, 2)
        starts = rng.integers(0, 24, len(counts))
        tokens = [rng.integers(0, 97, count).tolist() for count in counts]
        given = step(tokens, starts.tolist(), tables.tolist())
        plain, replayed = (one.executor.logits(given) for one in both)
        np.testing.assert_allclose(replayed, plain, rtol=1e-4, atol=1e-4)
        layers = (
            one.device.read(one.executor.addresses()["keys of layer 0"], 12 * 16 * 2 * 16 * 4)
            for one in both
        )
        kept, written = (one.view(np.float32) for one in layers)
        np.testing.assert_allclose(written, kept, rtol=1e-4, atol=1e-5)
        assert both[1].device.replays


@pytest.mark.interpreted
def test_logits_are_those_of_the_interpreter(opened: Any) -> None:
    one = opened(tiny())
    one.executor.allocate(8)
    found = one.executor.logits(MIXED)
    want = oracle(tiny(), MIXED)
    assert np.linalg.norm(found - want) < 1e-5 * np.linalg.norm(want)
    told: list[str] = []

    def observe(step: Any, made: Any) -> None:
        told.append(step.name)
        assert all(np.isfinite(result).all() for result in made)

    np.testing.assert_array_equal(one.executor.logits(MIXED, observe), found)
    assert told == [step.name for step in tiny().plan.steps()]


@pytest.mark.interpreted
def test_rows_are_sampled_as_numpy_does(opened: Any) -> None:
    one = opened(tiny())
    one.executor.allocate(8)
    logits = one.executor.logits(MIXED)
    rows = len(logits)
    numbers = np.arange(rows, dtype=np.uint64)
    given = SamplingInputs(
        rows,
        targets=np.array([-1, 3, -1, -1, -1, 9, -1, -1]),
        temperature=np.linspace(0, 2, rows).astype(np.float32),
        seeds=numbers,
        streams=numbers,
        counters=numbers,
        num_logprobs=np.array([-1, 0, 2, 5, 1, 0, -1, 3]),
    )
    got, want = one.executor.run(MIXED, given), sample(logits, given)
    np.testing.assert_array_equal(got.token_ids, want.token_ids)
    asked = given.num_logprobs >= 0
    np.testing.assert_allclose(got.logprobs[asked], want.logprobs[asked], rtol=1e-5)
    np.testing.assert_array_equal(got.ranks[asked], want.ranks[asked])
    for row in np.flatnonzero(given.num_logprobs > 0):
        most = given.num_logprobs[row]
        np.testing.assert_array_equal(got.top_ids[row, :most], want.top_ids[row, :most])
    assert got.status is None


@pytest.mark.interpreted
def test_a_step_without_rows_gives_no_tokens(opened: Any) -> None:
    one = opened(tiny())
    one.executor.allocate(8)
    chunk = replace(MIXED, rows=np.zeros(0, np.int64))
    assert len(one.executor.run(chunk, SamplingInputs(0)).token_ids) == 0


@pytest.mark.interpreted
def test_pytorch_runs_what_has_no_kernel(opened: Any) -> None:
    artifact = tiny(block_size=8)  # no attention in Triton for such blocks
    assert artifact.plan.backends() == {"torch", "triton"}
    one = opened(artifact, CapturePlan((4,), (12,), 6, (0,), (0,)))
    reference = reference_of(artifact)
    found = greedy_through_engine(one.executor, LIMITS, PROMPTS[1:], 3)
    assert found == [generated(reference, prompt, 3) for prompt in PROMPTS[1:]]
    captures = one.executor.captures
    assert captures.plan.decode_sizes == ()
    assert "PyTorch runs" in captures.plan.reasons[-1]
    assert one.device.replays, "pieces without PyTorch are replayed"


@pytest.mark.interpreted
def test_pytorch_runs_sizes_that_a_kernel_leaves_to_it(
    opened: Any, expected: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = Artifact.launch

    def launch(self: Artifact, name: str) -> LaunchKernel:
        kernel = plain(self, name)
        if "glu" not in name and not name.startswith("linear_add"):
            return kernel
        library = LaunchVariant({"T": 4}, (), "measured", library=True)
        return replace(kernel, variants=(library, *kernel.variants))

    monkeypatch.setattr(Artifact, "launch", launch)
    one = opened(tiny(), CapturePlan((4,), (4, 12), 3, (0,), (0, 0)))
    assert greedy_through_engine(one.executor, LIMITS, PROMPTS, COUNT) == expected
    assert one.executor.captures.plan.decode_sizes == ()
    glu = [name for name in one.device.launched if "glu" in name]
    assert 0 < len(glu) < one.device.launched.count("sample") + 1


@pytest.mark.interpreted
def test_memory_for_more_blocks_is_taken_anew(opened: Any) -> None:
    one = opened(tiny(), CapturePlan((4,), (), 2, (0,), ()))
    decode = step([[5], [6]], [0, 0], [[1], [2]])
    found = []
    for blocks in (3, 5, 3):
        one.executor.allocate(blocks)
        found.append(one.executor.logits(decode))
        assert len(one.device.graphs) == 1
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])


def test_what_cannot_be_run_is_refused(opened: Any) -> None:
    one = opened(tiny())
    with pytest.raises(UsageError, match="no KV memory"):
        one.executor.logits(step([[5]], [0], [[1]]))
    with pytest.raises(UsageError, match="larger than memory was taken for") as caught:
        one.executor.logits(step([[5] * 13], [0], [[1]]))
    assert "T=13" in str(caught.value)
    with pytest.raises(MachineError, match="KV memory could not be allocated") as caught:
        one.executor.allocate(1 << 30)
    assert "kv_cache_memory" in str(caught.value)


def test_a_plan_for_a_cpu_is_refused() -> None:
    artifact = tiny()
    (piece, *rest) = artifact.plan.pieces
    steps = (replace(piece.steps[0], backend="cpp"), *piece.steps[1:])
    plan = replace(artifact.plan, pieces=(replace(piece, steps=steps), *rest))
    with pytest.raises(ArtifactError, match="do not run on a GPU"):
        CudaExecutor(replace(artifact, plan=plan), InterpretedDevice(), LIMITS)


@pytest.mark.parametrize(
    "captured",
    [
        CapturePlan((5,), (), 3, (0,), ()),
        CapturePlan((), (4, 13), 3, (), (0, 0)),
        CapturePlan((4,), (12,), 4, (0,), (0,)),
    ],
)
def test_captures_beyond_the_largest_step_are_refused(captured: CapturePlan) -> None:
    with pytest.raises(UsageError, match="larger than steps may be"):
        CudaExecutor(tiny(), InterpretedDevice(), LIMITS, captured)
    CudaExecutor(tiny(), InterpretedDevice(), LIMITS, CapturePlan((4,), (12,), 3, (0,), (0,)))


def test_too_little_memory_says_for_what() -> None:
    device = InterpretedDevice(total=1 << 16)
    with pytest.raises(MachineError, match="no memory for"):
        CudaExecutor(tiny(), device, LIMITS)


@pytest.mark.interpreted
def test_a_captured_decode_runs_again_by_itself_and_the_next_step_is_right(opened: Any) -> None:
    one = opened(tiny(), CapturePlan((4,), (), 3, (0,), ()))
    one.executor.allocate(8)
    assert not one.executor.again(3)
    decode = step([[5], [6]], [0, 0], [[1], [2]])
    found = one.executor.run(decode, SamplingInputs(2)).token_ids
    copied, replays = one.executor.copied_bytes, one.device.replays
    assert one.executor.again(2)
    assert (one.device.replays, one.executor.copied_bytes) == (replays + 2, copied)
    np.testing.assert_array_equal(one.executor.run(decode, SamplingInputs(2)).token_ids, found)
    one.executor.allocate(8)
    assert not one.executor.again(1)

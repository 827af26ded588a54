"""A model whose next token is a hash of what it reads back from KV memory through the block tables.

So a wrong slot, table, position, length or row, a block given to two sequences, or keys and values
that were never written show up as wrong tokens. Memory starts as garbage and is poisoned anew for
every engine.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np

from graphopt.embedding import Embedding
from graphopt.errors import MachineError
from graphopt.ir.dtype import DType
from graphopt.ir.shape import sym
from graphopt.ir.types import LayerState, StateType
from graphopt.plan import BufferSlot, Limits, Piece, Plan, Step
from graphopt.runtime.dispatch import BatchShape
from graphopt.runtime.engine import Engine, EngineConfig
from graphopt.runtime.executor import Sampled, SamplingInputs, StepInputs, embedded
from graphopt.runtime.prefix_cache import Scope
from graphopt.runtime.sampler import sample
from graphopt.runtime.sampling_params import SamplingParams
from graphopt.runtime.scheduler import SchedulerLimits
from graphopt.runtime.sequence import Sequence as Sample

_A, _B, _C = (np.uint64(x) for x in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def mix(values: np.ndarray) -> np.ndarray:
    """splitmix64, element by element."""
    with np.errstate(over="ignore"):
        values = values.astype(np.uint64) + _A
        values = (values ^ (values >> np.uint64(30))) * _B
        values = (values ^ (values >> np.uint64(27))) * _C
        return values ^ (values >> np.uint64(31))


def content(token_ids: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """What a token at a position leaves in KV memory."""
    with np.errstate(over="ignore"):
        return mix(token_ids.astype(np.uint64) * _B + positions.astype(np.uint64))


def logits_of(context: np.ndarray, vocab: int) -> np.ndarray:
    """Logits f32[V] of a context given as KV contents in order; any change changes them."""
    with np.errstate(over="ignore"):
        weights = mix(np.arange(len(context))) | np.uint64(1)
        digest = (context * weights).sum(dtype=np.uint64)
        words = mix(digest + mix(np.arange(vocab)))
    return ((words >> np.uint64(40)).astype(np.float32) / np.float32(1 << 24)) * np.float32(8.0)


def row_of(context: np.ndarray, position: int, size: int) -> np.ndarray:
    """The row f32[size] of a token at ``position`` that sees ``context``."""
    return logits_of(context, size + position)[position:] - np.float32(4.0)


def model(tokens: Sequence[int], vocab: int) -> np.ndarray:
    """The logits that follow ``tokens``, without any engine."""
    ids = np.array(tokens, dtype=np.int64)
    return logits_of(content(ids, np.arange(len(ids))), vocab)


class HashExecutor:
    """Runs the hash model; checks its inputs as no real executor would."""

    def __init__(self, vocab_size: int = 13, block_size: int = 2, max_rows: int = 64) -> None:
        self.vocab_size = vocab_size
        self.block_size = block_size
        self.bytes_per_block = 8 * block_size
        self.max_rows = max_rows
        self.embedding: Embedding | None = None
        self.memory = np.zeros(0, dtype=np.uint64)
        self.steps = 0
        self.closed = False
        self.fail_next: Exception | None = None
        self.refuse_next: Exception | None = None  # a step that does not even begin
        self.poison_token: int | None = None  # a row that follows this token gets NaN logits

    def allocate(self, num_blocks: int) -> None:
        generator = np.random.default_rng(0)
        size = num_blocks * self.block_size
        self.memory = generator.integers(0, 2**63, size=size, dtype=np.uint64)

    def fail_at(self, place: str) -> None:
        """Let the next step fail, when it is to ``start`` or when it is to ``finish``."""
        if place == "start":
            self.refuse_next = MachineError("the step was refused")
        else:
            self.fail_next = MachineError("the step broke down")

    def _refuse(self) -> None:
        if self.refuse_next is not None:
            error, self.refuse_next = self.refuse_next, None
            raise error

    def run(self, inputs: StepInputs, sampling: SamplingInputs) -> Sampled:
        self._refuse()
        return self._run(inputs, sampling)

    def _run(self, inputs: StepInputs, sampling: SamplingInputs) -> Sampled:
        self.steps += 1
        self._check(inputs, sampling)
        self.memory[inputs.slots] = content(inputs.token_ids, inputs.positions)
        if self.fail_next is not None:
            error, self.fail_next = self.fail_next, None
            self.memory[inputs.slots] = 0
            raise error
        logits = np.empty((len(inputs.rows), self.vocab_size), dtype=np.float32)
        for place, row in enumerate(inputs.rows):
            owner = int(np.searchsorted(inputs.starts, row, side="right")) - 1
            places = np.arange(inputs.positions[row] + 1)
            blocks = inputs.tables[owner, places // self.block_size].astype(np.int64)
            slots = blocks * self.block_size + places % self.block_size
            logits[place] = logits_of(self.memory[slots], self.vocab_size)
            if inputs.token_ids[row] == self.poison_token:
                logits[place, 3] = np.nan
        return sample(logits, sampling)

    def _check(self, inputs: StepInputs, sampling: SamplingInputs) -> None:
        assert inputs.reaches is None
        tokens, sequences = len(inputs.token_ids), len(inputs.lengths)
        assert tokens > 0
        assert len(inputs.positions) == len(inputs.slots) == tokens
        assert inputs.tables.shape[0] == sequences
        assert inputs.tables.flags.c_contiguous
        assert inputs.starts[0] == 0
        assert inputs.starts[-1] == tokens
        assert (np.diff(inputs.starts) > 0).all()
        assert (np.diff(inputs.rows) > 0).all()
        assert len(inputs.rows) == sampling.num_rows <= self.max_rows
        assert len(np.unique(inputs.slots)) == tokens
        assert inputs.slots.min() >= 0
        assert inputs.slots.max() < len(self.memory)
        for place in range(sequences):
            start, stop = inputs.starts[place], inputs.starts[place + 1]
            length = inputs.lengths[place]
            expected = np.arange(length - (stop - start), length)
            assert (inputs.positions[start:stop] == expected).all()
        for array, dtype in (
            (inputs.token_ids, np.int64),
            (inputs.rows, np.int64),
            (inputs.starts, np.int32),
            (inputs.tables, np.int32),
        ):
            assert array.dtype == dtype

    def close(self) -> None:
        self.closed = True
        self.memory = np.zeros(0, dtype=np.uint64)


class HashRows(HashExecutor):
    """The hash model as one that embeds; a row is a hash of what it sees.

    Args:
        embedding: how; where it is ``whole``, a row sees what ``reaches`` says.
    """

    def __init__(
        self, embedding: Embedding, vocab_size: int = 13, block_size: int = 2, max_rows: int = 64
    ) -> None:
        super().__init__(vocab_size, block_size, max_rows)
        self.embedding = embedding
        self.shapes: list[BatchShape] = []

    def _run(self, inputs: StepInputs, sampling: SamplingInputs) -> Sampled:
        self.steps += 1
        self.shapes.append(BatchShape.of(inputs))
        embedding, reaches = self.embedding, inputs.reaches
        assert embedding is not None
        assert (reaches is not None) == embedding.whole
        if reaches is not None:
            assert reaches.dtype == np.int32
            assert reaches.tolist() == np.repeat(inputs.lengths, np.diff(inputs.starts)).tolist()
        self._check(replace(inputs, reaches=None), sampling)
        self.memory[inputs.slots] = content(inputs.token_ids, inputs.positions)
        if self.fail_next is not None:
            error, self.fail_next = self.fail_next, None
            self.memory[inputs.slots] = 0
            raise error
        vectors = np.empty((len(inputs.rows), embedding.size), dtype=np.float32)
        for place, row in enumerate(inputs.rows):
            owner = int(np.searchsorted(inputs.starts, row, side="right")) - 1
            places = np.arange(inputs.positions[row] + 1 if reaches is None else reaches[row])
            blocks = inputs.tables[owner, places // self.block_size].astype(np.int64)
            slots = blocks * self.block_size + places % self.block_size
            vectors[place] = row_of(self.memory[slots], int(inputs.positions[row]), embedding.size)
            if inputs.token_ids[row] == self.poison_token:
                vectors[place, -1] = np.nan
        return embedded(vectors)


class OverlappingHash(HashExecutor):
    """The hash model as on a device: a step is computed when its turn comes, after the host has
    gone on and changed its arrays."""

    def __init__(self, vocab_size: int = 13, block_size: int = 2, max_rows: int = 64) -> None:
        super().__init__(vocab_size, block_size, max_rows)
        self.waiting: deque[tuple[StepInputs, SamplingInputs, np.ndarray]] = deque()
        self.drawn = np.zeros(0, dtype=np.int64)
        self.most_waiting = 0

    def start(self, inputs: StepInputs, sampling: SamplingInputs, sources: np.ndarray) -> None:
        self._refuse()
        assert sources.shape == inputs.token_ids.shape
        self.waiting.append(deepcopy((inputs, sampling, sources)))
        self.most_waiting = max(self.most_waiting, len(self.waiting))

    def finish(self) -> Sampled:
        inputs, sampling, sources = self.waiting.popleft()
        fed = sources >= 0
        assert (inputs.token_ids[fed] == 0).all()
        inputs.token_ids[fed] = self.drawn[sources[fed]]
        sampled = self._run(inputs, sampling)
        self.drawn = sampled.token_ids
        return sampled


class OverlappingRows(HashRows, OverlappingHash):
    """The hash model that embeds, as on a device; its rows lie in one of two places, in turn."""

    def __init__(self, embedding: Embedding, *sizes: int) -> None:
        super().__init__(embedding, *sizes)
        self.places = deque([np.zeros(0, np.float32)] * 2)

    def finish(self) -> Sampled:
        sampled = super().finish()
        self.places[-1][:] = np.nan  # the rows of the last step but one
        self.places.rotate(1)
        assert sampled.vectors is not None
        self.places[0] = sampled.vectors
        return sampled


def make_engine(
    *,
    vocab_size: int = 13,
    block_size: int = 2,
    num_blocks: int = 64,
    max_num_seqs: int = 8,
    max_num_batched_tokens: int = 64,
    max_rows: int = 64,
    max_model_len: int = 64,
    eos: Sequence[int] = (),
    executor_type: type[HashExecutor] = HashExecutor,
    prefix_scope: Scope = Scope.ALL,
    **options: object,
) -> Engine:
    """An engine over the hash model; ample by default."""
    limits = SchedulerLimits(max_num_seqs, max_num_batched_tokens, max_rows, max_model_len)
    executor = executor_type(vocab_size, block_size, max_rows)
    config = EngineConfig(limits, num_blocks, frozenset(eos), prefix_scope=prefix_scope)
    return Engine(executor, config, **options)


def run_all(engine: Engine, max_steps: int = 10_000) -> dict[str, object]:
    """Step until nothing is left, checking after every step; outputs by request."""
    outputs = {}
    for _ in range(max_steps):
        if not engine.has_work:
            return outputs
        for output in engine.step().finished:
            outputs[output.request_id] = output
        engine.check()
    raise AssertionError(f"not finished after {max_steps} steps")


def run_one(prompt: Sequence[int], params: SamplingParams, **options: object) -> object:
    """One request alone in an ample engine."""
    engine = make_engine(**options)
    engine.add_request("alone", prompt, params)
    return run_all(engine)["alone"]


def greedy(prompt: Sequence[int], count: int, vocab: int = 13) -> list[int]:
    """What the hash model continues ``prompt`` with, without any engine."""
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(int(model(tokens, vocab).argmax()))
    return tokens[len(prompt) :]


def append(sequence: Sample, token: int) -> None:
    """Add a token to a sequence's output, as a step does that computes nothing."""
    sequence.launch(sequence.computed, draws=True)
    sequence.land(token)


class CharDecoder:
    """A tokenizer of one character per token: 'a' is 0, 'b' is 1 and so on."""

    def encode(self, text: str) -> list[int]:
        return [ord(char) - 97 for char in text]

    def is_visible(self, token_id: int, skip_special_tokens: bool) -> bool:
        return True

    def is_byte(self, token_id: int) -> bool:
        return False

    def decode(self, token_ids: list[int], skip_special_tokens: bool = True) -> str:
        return "".join(chr(97 + token) for token in token_ids)


def small_plan(
    *, vocab_size: int = 13, block_size: int = 2, max_rows: int = 64, max_model_len: int = 64
) -> Plan:
    """A plan whose numbers are those of the hash model."""
    step = Step("hash", "hash", (), (), (1,))
    return Plan(
        name="hash",
        target="cpu",
        dtype=DType.F32,
        block_size=block_size,
        state=StateType("kv", (LayerState(1, 1, 1, DType.F32),)),
        limits=Limits(max_model_len, vocab_size, max_rows),
        inputs={"token_ids": 0},
        output=1,
        slots=(BufferSlot(8 * sym("T"), "ids"), BufferSlot(4 * vocab_size * sym("R"), "logits")),
        pieces=(Piece("p0", (step,), False, ""),),
    )


class FakeModel:
    """What ``LLM`` needs of an artifact."""

    def __init__(
        self,
        plan: Plan | None = None,
        generation_defaults: dict | None = None,
        tokenizer_dir: Path | None = None,
        weight_bytes: int = 1000,
    ) -> None:
        self.plan = plan or small_plan()
        self.generation_defaults = generation_defaults or {}
        self.tokenizer_dir = tokenizer_dir
        self.weight_bytes = weight_bytes

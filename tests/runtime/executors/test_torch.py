"""Plans through PyTorch against the interpreter, alone and inside the engine."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from graphopt.artifact import Artifact
from graphopt.errors import ArtifactError, GraphoptError, MachineError
from graphopt.ir.dtype import DType
from graphopt.plan import Piece
from graphopt.runtime.engine import Engine, EngineConfig
from graphopt.runtime.executor import SamplingInputs, StepInputs
from graphopt.runtime.executors import torch as torch_executor
from graphopt.runtime.executors.torch import TorchExecutor
from graphopt.runtime.sampling_params import SamplingParams
from graphopt.runtime.scheduler import SchedulerLimits
from tests.runtime.fakes import run_all
from tests.runtime.tiny_decoder import VOCAB, Oracle, write_decoder

PROMPT = [5, 11, 2, 28, 7, 7, 0, 19, 4, 13, 1]


@pytest.fixture(scope="module")
def artifact(tmp_path_factory):
    return write_decoder(tmp_path_factory.mktemp("tiny") / "tiny.gopt")


@pytest.fixture(scope="module")
def oracle():
    return Oracle()


def step(tokens, start, blocks, rows=None) -> StepInputs:
    """One sequence's tokens from ``start`` on, in ``blocks``."""
    positions = np.arange(start, len(tokens))
    table = np.array(blocks, dtype=np.int32)
    return StepInputs(
        token_ids=np.array(tokens[start:], dtype=np.int64),
        positions=positions,
        rows=np.arange(len(positions)) if rows is None else np.array(rows, dtype=np.int64),
        slots=table[positions // 4].astype(np.int64) * 4 + positions % 4,
        starts=np.array([0, len(positions)], dtype=np.int32),
        lengths=np.array([len(tokens)], dtype=np.int32),
        tables=table[None],
    )


def relative(out: np.ndarray, ref: np.ndarray) -> float:
    return float(np.linalg.norm(out - ref) / np.linalg.norm(ref))


def test_a_prefill_and_a_decode_agree_with_the_interpreter(artifact, oracle):
    executor = TorchExecutor(artifact)
    executor.allocate(8)
    expected = oracle.logits([*PROMPT, 9])
    prefill = executor.logits(step(PROMPT, 0, [6, 0, 3]))
    assert relative(prefill, expected[:-1]) < 1e-5
    decode = executor.logits(step([*PROMPT, 9], len(PROMPT), [6, 0, 3]))
    assert relative(decode, expected[-1:]) < 1e-5
    wrong = executor.logits(step([*PROMPT, 9], len(PROMPT), [6, 3, 0]))
    assert relative(wrong, expected[-1:]) > 1e-2, "a wrong table shows"


def test_no_rows_give_no_logits(artifact):
    executor = TorchExecutor(artifact)
    executor.allocate(4)
    assert executor.logits(step(PROMPT, 0, [0, 1, 2], rows=[])).shape == (0, VOCAB)
    assert len(executor.run(step(PROMPT, 0, [0, 1, 2], []), SamplingInputs(0)).token_ids) == 0


def test_bf16_is_near_float32(tmp_path, oracle):
    executor = TorchExecutor(write_decoder(tmp_path / "tiny.gopt", dtype=DType.BF16))
    executor.allocate(4)
    out = executor.logits(step(PROMPT, 0, [2, 1, 0]))
    assert out.dtype == np.float32
    assert 1e-3 < relative(out, oracle.logits(PROMPT)) < 3e-2
    exact = Oracle(DType.BF16).logits(PROMPT)
    assert relative(out, exact) < 1e-5


@pytest.mark.parametrize(("blocks", "budget"), [(64, 64), (12, 5), (12, 64)])
def test_the_engine_gives_the_models_tokens(artifact, oracle, blocks, budget):
    limits = SchedulerLimits(4, budget, 16, 40)
    engine = Engine(TorchExecutor(artifact), EngineConfig(limits, blocks))
    prompts = [PROMPT, PROMPT[:3], [8], PROMPT[4:9]]
    for number, prompt in enumerate(prompts):
        params = SamplingParams(temperature=0.0, max_tokens=16)
        engine.add_request(str(number), prompt, params)
    outputs = run_all(engine)
    for number, prompt in enumerate(prompts):
        assert list(outputs[str(number)].token_ids) == oracle.greedy(prompt, 16)
    preempted = sum(output.metrics.preemptions for output in outputs.values())
    assert (preempted > 0) == (blocks == 12)


def test_prompt_logprobs_are_the_models(artifact, oracle):
    limits = SchedulerLimits(2, 7, 3, 40)
    engine = Engine(TorchExecutor(artifact), EngineConfig(limits, 16))
    engine.add_request("r", PROMPT, SamplingParams(max_tokens=0, prompt_logprobs=0))
    reports = run_all(engine)["r"].prompt_logprobs
    logprobs = oracle.logprobs(PROMPT)
    for place, report in enumerate(reports[1:], 1):
        assert report.logprob == pytest.approx(logprobs[place - 1, PROMPT[place]], abs=1e-4)


def test_a_step_that_fails_is_named(artifact):
    executor = TorchExecutor(artifact)
    executor.allocate(4)
    inputs = step(PROMPT, 0, [0, 1, 2])
    with pytest.raises(GraphoptError, match="step embed failed"):
        executor.logits(replace(inputs, token_ids=np.array([1000] * 11)))
    executor.logits(inputs)


def test_memory_that_is_not_there(artifact):
    with pytest.raises(MachineError, match="KV memory"):
        TorchExecutor(artifact).allocate(1 << 50)


def test_plans_of_another_backend_or_graph_are_refused(artifact):
    (piece, *others) = artifact.plan.pieces

    def changed(**values):
        steps = (replace(piece.steps[0], **values), *piece.steps[1:])
        pieces = (Piece(piece.name, steps, piece.captured, piece.cut), *others)
        return replace(artifact, plan=replace(artifact.plan, pieces=pieces))

    with pytest.raises(ArtifactError, match="PyTorch cannot run"):
        TorchExecutor(changed(backend="cpp"))
    with pytest.raises(ArtifactError, match="graph lacks"):
        TorchExecutor(changed(nodes=(10_000,)))


def test_weights_of_another_type_are_refused(tmp_path, artifact):
    half = write_decoder(tmp_path / "half.gopt", dtype=DType.BF16)
    manifest = half.path / "manifest.json"
    for name in ("plan.json", "graph.ir"):
        shutil.copyfile(artifact.path / name, half.path / name)
    mixed = Artifact(half.path, json.loads(manifest.read_text()), artifact.plan)
    with pytest.raises(ArtifactError, match="not what the graph expects"):
        TorchExecutor(mixed)


def test_close_lets_go(artifact):
    executor = TorchExecutor(artifact)
    executor.allocate(4)
    executor.close()
    executor.close()
    assert executor._state is None
    assert executor._calls == ()


def test_numbers_of_the_plan(artifact):
    executor = TorchExecutor(artifact)
    assert (executor.block_size, executor.vocab_size, executor.max_rows) == (4, VOCAB, 16)
    assert executor.bytes_per_block == 4 * 2 * 2 * (4 + 4) * 4


def test_small_steps_take_one_thread_and_give_the_others_back(artifact, monkeypatch):
    executor = TorchExecutor(artifact)
    executor.allocate(4)
    before, seen = torch.get_num_threads(), []
    torch.set_num_threads(2)

    def threads_of_a_step():
        seen.clear()
        executor.logits(step(PROMPT, 0, [3, 0, 1]), lambda *_: seen.append(torch.get_num_threads()))
        return set(seen)

    try:
        assert threads_of_a_step() == {1}
        assert torch.get_num_threads() == 2
        monkeypatch.setattr(torch_executor, "SMALL_STEP_FLOPS", 1)
        assert threads_of_a_step() == {2}
    finally:
        torch.set_num_threads(before)

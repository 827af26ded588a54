"""A request has the same bits in any batch: on a CPU always, on a GPU if it was compiled so."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from random import Random
from tempfile import mkdtemp
from typing import Any

import pytest

from graphopt import api
from graphopt.artifact import Artifact
from graphopt.codegen.triton import linear_tiles
from graphopt.errors import UsageError
from graphopt.plan import TRITON
from graphopt.runtime.determinism import demand_deterministic, why_not_deterministic
from graphopt.runtime.engine import Engine, EngineConfig
from graphopt.runtime.executor import Executor
from graphopt.runtime.executors.cpp import CppExecutor
from graphopt.runtime.llm import LLM
from graphopt.runtime.outputs import RequestOutput
from graphopt.runtime.sampling_params import SamplingParams
from graphopt.runtime.scheduler import SchedulerLimits
from tests.checkpoints import save_tiny

from .gpu_plan import gpu_plan, steps
from .native_decoder import write_native
from .tiny_decoder import write_decoder

MODELS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "llama": ("llama", {}),
    "qwen3": ("qwen3", {}),
    "gemma3": (
        "gemma3_text",
        {"sliding_window": 40, "sliding_window_pattern": 2, "query_pre_attn_scalar": 20},
    ),
    "moe": (
        "qwen3_moe",
        {
            "num_experts": 6,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 48,
            "norm_topk_prob": True,
            "decoder_sparse_step": 1,
            "mlp_only_layers": [],
        },
    ),
}
KINDS: Mapping[str, Mapping[str, Any]] = {
    "f32": {"dtype": "float32"},
    "bf16": {"dtype": "bfloat16"},
    "int8": {"dtype": "bfloat16", "quantize": "int8"},
    "int4": {"dtype": "bfloat16", "quantize": "int4"},
}
# A request as one can ask for it: its prompt, and how it is sampled.
Request = tuple[list[int], SamplingParams]
# Tokens with their log-probabilities, and the log-probabilities of the prompt's tokens.
Bits = tuple[list[tuple[int, float]], list[float | None]]


@cache
def _checkpoint(name: str) -> Path:
    kind, fields = MODELS[name]
    sizes = {"num_hidden_layers": 2, "max_position_embeddings": 2048}
    return save_tiny(Path(mkdtemp(prefix="graphopt-test-")) / name, kind, **{**sizes, **fields})


@cache
def _artifact(name: str, kind: str) -> Artifact:
    folder = _checkpoint(name)
    return api.compile_checkpoint(
        folder, folder.with_suffix(f".{kind}.gopt"), block_size=8, **KINDS[kind]
    )


def _requests(rng: Random, lengths: Sequence[int], new: int) -> list[Request]:
    found: list[Request] = []
    for number, length in enumerate(lengths):
        params = SamplingParams(
            max_tokens=new,
            ignore_eos=True,
            logprobs=2,
            prompt_logprobs=0,
            temperature=rng.choice((0.0, 0.8)),
            top_p=rng.choice((1.0, 0.9)),
            seed=number,
        )
        found.append(([rng.randrange(3, 97) for _ in range(length)], params))
    return found


def _bits(output: RequestOutput) -> Bits:
    assert output.error is None
    (sample,) = output.completions
    assert sample.logprobs is not None
    assert output.prompt_logprobs is not None
    made = [(t, p.logprob) for t, p in zip(sample.token_ids, sample.logprobs, strict=True)]
    return made, [one.logprob if one else None for one in output.prompt_logprobs]


def _run(
    executor: Executor,
    requests: Sequence[Request],
    limits: SchedulerLimits,
    blocks: int,
    rng: Random | None = None,
) -> tuple[list[Bits], int]:
    """What requests get that arrive in random steps, all at once without ``rng``.

    The second of the answer is how often a request was preempted.
    """
    engine = Engine(executor, EngineConfig(limits, num_blocks=blocks))
    waiting = list(enumerate(requests))
    if rng is not None:
        rng.shuffle(waiting)
    found: dict[str, RequestOutput] = {}
    while waiting or engine.has_work:
        arriving = len(waiting) if rng is None else rng.randint(0 if engine.has_work else 1, 2)
        for number, (prompt, params) in waiting[:arriving]:
            engine.add_request(str(number), prompt, params)
        waiting = waiting[arriving:]
        found |= {one.request_id: one for one in engine.step().finished}
    preempted = engine.scheduler.preemptions
    return [_bits(found[str(number)]) for number in range(len(requests))], preempted


def _alone(make: Callable[[], Executor], requests: Sequence[Request], blocks: int) -> list[Bits]:
    """What each request gets that is alone, its prompt in one step."""
    executor = make()
    limits = SchedulerLimits(1, 2048, 64, 2048)
    return [_run(executor, [one], limits, blocks)[0][0] for one in requests]


def _check_cpu(name: str, kind: str, seed: int, rounds: int) -> None:
    artifact, rng = _artifact(name, kind), Random(seed)
    requests = _requests(rng, [5, 40, rng.randint(300, 420), 1, rng.randint(260, 300), 90], 8)
    crowd = _requests(rng, [15, 14, 9, 16], 40)
    expected, crowded = (
        _alone(lambda: CppExecutor(artifact, threads=1), some, 160) for some in (requests, crowd)
    )
    for _ in range(rounds):
        threads = rng.choice((1, 2, 3))
        limits = SchedulerLimits(rng.randint(2, 6), rng.choice((7, 33, 250, 2048)), 64, 2048)
        executor = CppExecutor(artifact, threads=threads)
        assert _run(executor, requests, limits, 160, rng)[0] == expected, (threads, limits)
        # Blocks run out while they grow: some are preempted, and begin anew.
        limits = SchedulerLimits(4, 64, 64, 2048)
        found, preempted = _run(executor, crowd, limits, 14)
        assert found == crowded, threads
        assert preempted
        executor.close()


@pytest.mark.parametrize(
    ("name", "kind"),
    [("llama", "bf16"), ("gemma3", "f32"), ("moe", "int4")],
)
def test_a_cpu_gives_the_same_bits_in_any_batch(name: str, kind: str) -> None:
    _check_cpu(name, kind, seed=1, rounds=3)


@pytest.mark.full
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_cpu_gives_the_same_bits_in_any_batch_of_any_model(name: str, kind: str) -> None:
    _check_cpu(name, kind, seed=2, rounds=12)


def test_an_artifact_for_a_cpu_may_be_asked_for_it(tmp_path: Path) -> None:
    artifact = write_native(tmp_path / "tiny.gopt")
    assert not artifact.plan.deterministic
    with LLM(artifact, deterministic=True) as llm:
        (output,) = llm.generate([[5, 6]], SamplingParams(max_tokens=2, ignore_eos=True))
    assert len(output.completions[0].token_ids) == 2


def test_what_pytorch_runs_is_refused_by_name(tmp_path: Path) -> None:
    artifact = write_decoder(tmp_path / "tiny.gopt")
    with pytest.raises(UsageError, match="deterministic") as caught:
        LLM(artifact, deterministic=True)
    assert "PyTorch runs" in str(caught.value)
    assert "linear" in str(caught.value)


def test_a_plan_for_a_gpu_is_refused_unless_it_was_compiled_so() -> None:
    plan = gpu_plan()
    with pytest.raises(UsageError, match="--deterministic") as caught:
        demand_deterministic(plan)
    assert "cuda:sm_90" in str(caught.value)
    demand_deterministic(replace(plan, deterministic=True))
    # A single step of PyTorch is enough, whatever the plan says.
    last = replace(plan.pieces[-1], steps=steps("norm", backend="torch"))
    mixed = replace(plan, pieces=(*plan.pieces, last), deterministic=True)
    assert why_not_deterministic(mixed) == "PyTorch runs norm"


@cache
def _for_gpu(name: str, *, deterministic: bool) -> Artifact:
    from .executors.gpu.interpreted_artifact import compile_interpreted

    kind, fields = MODELS[name]
    folder = Path(mkdtemp(prefix="graphopt-test-"))
    checkpoint = save_tiny(folder / name, kind, **{**fields, "num_hidden_layers": 1})
    with pytest.MonkeyPatch.context() as patch:
        # Of programs that share tiles, few: the others would run for nothing, one after the other.
        patch.setattr(linear_tiles, "PROCESSORS", {80: 2})
        return compile_interpreted(
            checkpoint, folder / "model.gopt", dtype="bfloat16", deterministic=deterministic
        )


def _run_on_gpu(name: str, rounds: int, *, deterministic: bool) -> tuple[list[Bits], list[Bits]]:
    """What requests get alone, and what those of some batches get that get something else."""
    from graphopt.runtime.executors.gpu.executor import CudaExecutor

    from .executors.gpu.interpreted_device import InterpretedDevice

    artifact, rng = _for_gpu(name, deterministic=deterministic), Random(3)
    lengths = [3, 66, 18]
    requests = _requests(rng, lengths, 2)

    def run(limits: SchedulerLimits, some: Sequence[Request], rng: Random | None) -> list[Bits]:
        executor = CudaExecutor(artifact, InterpretedDevice(), limits)
        try:
            return _run(executor, some, limits, 24, rng)[0]
        finally:
            executor.close()

    alone = [run(SchedulerLimits(1, 80, 80, 96), [one], None)[0] for one in requests]
    others: list[Bits] = []
    for number in range(rounds):
        limits = SchedulerLimits(4, (30, 100)[number % 2], 100, 96)
        found = run(limits, requests, rng)
        others += [got for got, want in zip(found, alone, strict=True) if got != want]
    return alone, others


@pytest.mark.interpreted
@pytest.mark.parametrize("name", ["llama", pytest.param("moe", marks=pytest.mark.full)])
def test_a_gpu_gives_the_same_bits_in_any_batch(name: str) -> None:
    plan = _for_gpu(name, deterministic=True).plan
    assert plan.deterministic
    demand_deterministic(plan)
    _, others = _run_on_gpu(name, 2, deterministic=True)
    assert others == []


@pytest.mark.interpreted
def test_a_gpu_gives_other_bits_otherwise() -> None:
    artifact = _for_gpu("llama", deterministic=False)
    with pytest.raises(UsageError, match="--deterministic"):
        demand_deterministic(artifact.plan)
    _, others = _run_on_gpu("llama", 1, deterministic=False)
    assert others != []


@pytest.mark.interpreted
@pytest.mark.parametrize("name", MODELS)
def test_kernels_have_one_way_for_steps_of_any_size(name: str) -> None:
    artifact = _for_gpu(name, deterministic=True)
    steps_of_kernels = [one for one in artifact.plan.steps() if one.backend == TRITON]
    assert steps_of_kernels
    for step in steps_of_kernels:
        (only,) = artifact.launch(step.kernel).variants
        assert not only.below
        assert not only.library

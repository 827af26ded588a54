"""Families in C++: a mixed step and sixteen greedy tokens as in transformers, on awkward sizes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from graphopt import api
from graphopt.frontend.twin import Proof
from graphopt.isa import FORCE, host_isas
from graphopt.runtime.executors.verification import relative_error, token_error
from tests.models.cases import CASES
from tests.models.families import small_config
from tests.models.harness import (
    Running,
    generated,
    greedy_on,
    mixed_step,
    prompts,
    reference_logits,
)
from tests.models.native import RAGGED, Checkpoint, Native

FAST = ("llama", "gemma3_text")
NAMES = [name if name in FAST else pytest.param(name, marks=pytest.mark.full) for name in CASES]
OTHER_ISAS = [isa.name for isa in host_isas()[1:]]
VARIED = ("gemma3_text", "gpt_oss", "deepseek_v3", "bloom")


@pytest.fixture(autouse=True)
def shared_objects(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Families share kernels, and so do the workers; twins have tests of their own."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if base.name.startswith("popen") else base
    monkeypatch.setenv("GRAPHOPT_CACHE", str(shared / "graphopt-cache"))
    monkeypatch.setattr("graphopt.frontend.trace.prove", lambda *args, **named: Proof(None))


def running(checkpoint: Checkpoint, dtype: str) -> Native:
    """The compiled checkpoint, of whose steps none is left to PyTorch."""
    artifact = checkpoint.compile(dtype)
    assert artifact.plan.backends() == {"cpp"}
    return Native(artifact)


def stacked(steps: list[tuple[list[int], Tensor]], model: PreTrainedModel) -> tuple[Tensor, Tensor]:
    """The rows of a mixed step, and a model's rows of the same tokens."""
    theirs = [reference_logits(model, tokens)[-len(rows) :].float() for tokens, rows in steps]
    return torch.cat([rows for _, rows in steps]), torch.cat(theirs)


def check_float32(name: str, folder: Path) -> None:
    checkpoint = Checkpoint.make(name, folder / "checkpoint")
    engine = running(checkpoint, "float32")
    for tokens, rows in mixed_step(engine, RAGGED["vocab_size"]):
        assert relative_error(*stacked([(tokens, rows)], checkpoint.exact)) < 1e-5
    starts = prompts(RAGGED["vocab_size"], (13, 5, 22), seed=1)
    engine = Native(checkpoint.compile("float32"))
    wanted = [generated(checkpoint.exact, tokens, 16) for tokens in starts]
    assert greedy_on(engine, starts, 16) == wanted


def check_bfloat16(name: str, folder: Path) -> None:
    """Of models with experts by token, of many: one that rounding moves elsewhere is far off."""
    checkpoint = Checkpoint.make(name, folder / "checkpoint")
    engine = running(checkpoint, "bfloat16")
    steps = mixed_step(engine, RAGGED["vocab_size"])
    for tokens in prompts(RAGGED["vocab_size"], (40, 41, 42), seed=2):
        sequence = Running(tokens)
        rows = [engine.step([(sequence, count)])[0] for count in (17, len(tokens) - 17)]
        steps.append((tokens, torch.cat(rows)))
    ours, exact = stacked(steps, checkpoint.exact)
    _, theirs = stacked(steps, checkpoint.rounded())
    routed = any("expert" in name for name, _ in checkpoint.exact.named_parameters())
    error: Callable[[Tensor, Tensor], float] = token_error if routed else relative_error
    assert 1e-4 < error(ours, exact) < 2 * error(theirs, exact)


@pytest.mark.parametrize("name", NAMES)
def test_float32_gives_the_numbers_and_tokens_of_transformers(name: str, tmp_path: Path) -> None:
    check_float32(name, tmp_path)


@pytest.mark.full
@pytest.mark.parametrize("name", CASES)
def test_bfloat16_rounds_no_worse_than_transformers(name: str, tmp_path: Path) -> None:
    check_bfloat16(name, tmp_path)


@pytest.mark.full
@pytest.mark.parametrize("name", VARIED)
@pytest.mark.parametrize("isa", OTHER_ISAS)
def test_other_instruction_sets_give_the_same(
    name: str, isa: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(FORCE, isa)
    check_float32(name, tmp_path / "float32")
    check_bfloat16(name, tmp_path / "bfloat16")


@pytest.mark.full
def test_a_single_expert_has_a_dimension(tmp_path: Path) -> None:
    """Which its packed weights lack."""
    checkpoint = Checkpoint.of(small_config("hunyuan_v1_moe"), tmp_path / "checkpoint")
    artifact = checkpoint.compile("float32")
    assert api.verify_artifact(artifact.path, tokens=range(1, 60)).agrees


@pytest.mark.full
@pytest.mark.parametrize("quantize", ["int8", "int4"])
@pytest.mark.parametrize("name", ["mixtral", "qwen3_moe", "gpt_oss", "deepseek_v3"])
def test_experts_in_few_bits(name: str, quantize: str, tmp_path: Path) -> None:
    """No step is PyTorch's, and numbers are the quantized graph's."""
    checkpoint = Checkpoint.make(name, tmp_path / "checkpoint")
    artifact = checkpoint.compile("bfloat16", quantize)
    assert artifact.plan.backends() == {"cpp"}
    experts = [one for one in artifact.plan.layouts.values() if one.batch > 1 and one.quant]
    assert len(experts) >= 2
    assert any("chooses experts" in note for note in artifact.model.notes)
    # Of single steps a token that goes elsewhere may be too large a part.
    assert api.verify_artifact(artifact.path, tokens=range(1, RAGGED["vocab_size"])).logits.agrees

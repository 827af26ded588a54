"""A checkpoint goes in and the right tokens come out, through every layer."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

import graphopt
from graphopt import api
from graphopt.artifact import _entry, _seal
from graphopt.embedding import Embedding
from graphopt.errors import (
    ArtifactError,
    CapacityError,
    MachineError,
    UnsupportedError,
    UsageError,
)
from graphopt.passes.pipeline import decoder_pipeline
from tests.checkpoints import save_tiny

PROMPTS = [[5, 6, 7], list(range(3, 40)), [11], [90, 4] * 11]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def artifact(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("out") / "tiny.gopt"
    api.compile_checkpoint(checkpoint, path, dtype="float32", block_size=4)
    return path


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GRAPHOPT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def greedy_by_transformers(checkpoint: Path, prompt: list[int], count: int) -> list[int]:
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    ids = torch.tensor([prompt])
    out = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=count, do_sample=False
    )
    return out[0, len(prompt) :].tolist()


def test_greedy_tokens_are_those_of_transformers(checkpoint: Path, artifact: Path) -> None:
    params = graphopt.SamplingParams(max_tokens=16, temperature=0.0)
    with graphopt.LLM(artifact, max_num_batched_tokens=16, max_num_seqs=3) as llm:
        outputs = llm.generate(PROMPTS, params)
        streamed = [token for delta in llm.stream(PROMPTS[1], params) for token in delta.token_ids]
    for prompt, output in zip(PROMPTS, outputs, strict=True):
        assert list(output.token_ids) == greedy_by_transformers(checkpoint, prompt, 16)
    assert tuple(streamed) == outputs[1].token_ids


def test_scores_are_those_of_transformers(checkpoint: Path, artifact: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    with torch.no_grad():
        logits = model(torch.tensor([PROMPTS[1]])).logits[0]
    wanted = torch.log_softmax(logits, -1)[:-1].gather(1, torch.tensor([PROMPTS[1][1:]]).T)[:, 0]
    with graphopt.LLM(artifact, max_num_batched_tokens=8, max_num_seqs=2) as llm:
        first, *scores = llm.score(PROMPTS[1])
    assert first is None
    assert np.allclose(scores, wanted.numpy(), rtol=1e-4, atol=1e-4)


def test_the_manifest_says_what_it_is(checkpoint: Path, artifact: Path) -> None:
    found = graphopt.read_artifact(artifact)
    assert found.model.architecture == "LlamaForCausalLM"
    assert found.plan.limits.max_model_len == 128
    assert found.plan.limits.vocab_size == 97
    assert found.plan.block_size == 4
    model = AutoModelForCausalLM.from_pretrained(checkpoint)
    buffers = sum(b.numel() for n, b in model.named_buffers() if n.endswith("rotary_emb.inv_freq"))
    assert found.model.parameters == model.num_parameters() + buffers


def test_verification_agrees_in_every_dtype(checkpoint: Path, tmp_path: Path) -> None:
    for dtype in ("float32", "bfloat16", "float16"):
        path = tmp_path / f"{dtype}.gopt"
        api.compile_checkpoint(checkpoint, path, dtype=dtype, block_size=4)
        report = api.verify_artifact(path, reference=checkpoint)
        assert report.agrees, report
        assert report.reference is not None
        steps = graphopt.read_artifact(path).plan.steps()
        assert [row.name for row in report.steps] == [step.name for step in steps if step.results]


def reseal(path: Path, name: str, data: bytes) -> None:
    """Change a file of an artifact and make the manifest agree with it."""
    import json

    (path / name).write_bytes(data)
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["files"][name] = _entry(path / name)
    text = json.dumps(manifest).encode()
    (path / "manifest.json").write_bytes(text)
    (path / "manifest.json.blake3").write_bytes(_seal(text))


def test_verification_finds_a_wrong_graph(checkpoint: Path, tmp_path: Path) -> None:
    path = tmp_path / "wrong.gopt"
    api.compile_checkpoint(checkpoint, path, dtype="float32", block_size=4)
    text = (path / "graph.ir").read_text()
    assert "scale = 0.25" in text
    reseal(path, "graph.ir", text.replace("scale = 0.25", "scale = 0.2501", 1).encode())
    report = api.verify_artifact(path)
    assert not report.agrees
    # The kernels were made of another graph, so the step that differs is the one to tell.
    assert next(row.name for row in report.steps if not row.agrees) == "attention"


@pytest.mark.parametrize("bits", [8, 4])
def test_rounded_weights_are_compared_with_the_quantized_graph(
    bits: int, checkpoint: Path, tmp_path: Path
) -> None:
    path = tmp_path / "rounded.gopt"
    options = {"dtype": "bfloat16", "quantize": f"int{bits}"}
    artifact = api.compile_checkpoint(checkpoint, path, **options)
    assert {one.quant.bits for one in artifact.plan.layouts.values() if one.quant} == {bits}
    assert api.verify_artifact(path).agrees
    with pytest.raises(UsageError, match="rounded weights is another one"):
        api.verify_artifact(path, reference=checkpoint)
    with pytest.raises(UsageError, match="unknown way to quantize"):
        api.compile_checkpoint(checkpoint, path, quantize="int3")


def test_attention_as_a_user_writes_it(checkpoint: Path, tmp_path: Path) -> None:
    near = graphopt.attention(mask=lambda q, k, head, sequence: q - k < 3)
    same = graphopt.attention(score=lambda score, q, k, head, sequence: score + 0.0 * head)
    reports = {
        name: api.verify_artifact(
            api.compile_checkpoint(
                checkpoint, tmp_path / f"{name}.gopt", dtype="float32", attention=variant
            ).path,
            reference=checkpoint,
        )
        for name, variant in {"near": near, "same": same}.items()
    }
    for report in reports.values():  # kernels agree with what the interpreter makes of it
        assert all(row.agrees for row in (*report.steps, report.logits))
    assert reports["same"].reference is not None
    assert reports["same"].reference.agrees
    assert reports["near"].reference is not None
    assert not reports["near"].reference.agrees  # transformers attends to everything


def test_verification_finds_wrong_weights_by_the_reference(
    checkpoint: Path, tmp_path: Path
) -> None:
    other = save_tiny(tmp_path / "other", seed=1)
    path = tmp_path / "other.gopt"
    api.compile_checkpoint(other, path, dtype="float32")
    assert api.verify_artifact(path).agrees
    report = api.verify_artifact(path, reference=checkpoint)
    assert report.reference is not None
    assert not report.reference.agrees


def test_a_checkpoint_is_compiled_once(
    checkpoint: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = graphopt.SamplingParams(max_tokens=2, temperature=0.0)
    with graphopt.LLM(checkpoint, dtype="float32") as llm:
        first = llm.generate(PROMPTS[0], params)[0].token_ids

    def never(*_: object, **__: object) -> None:
        raise RuntimeError("compiled again")

    with monkeypatch.context() as patch:
        patch.setattr(api, "compile_graph", never)
        with graphopt.LLM(checkpoint, dtype="float32") as llm:
            assert llm.generate(PROMPTS[0], params)[0].token_ids == first
        with pytest.raises(RuntimeError, match="compiled again"):
            graphopt.LLM(checkpoint, dtype="bfloat16")


def test_compiling_again_takes_what_is_there(
    checkpoint: Path, own_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {
        "dtype": "float32",
        "disabled_passes": ["share-common"],
        "pass_fuel": 2,
    }
    seen: list[str] = []
    first = api.compile_reported(
        checkpoint, observe=lambda name, before, after: seen.append(name), **options
    )
    assert first.compiled is not None
    assert seen == [report.name for report in first.compiled.reports]
    assert "share-common" not in seen
    assert sum(report.rewrites for report in first.compiled.reports) == 2
    assert " at %" in first.compiled.last_rewrite
    assert first.compiled.seconds["tracing"] > 0

    def never(*_: object, **__: object) -> None:
        raise RuntimeError("compiled again")

    monkeypatch.setattr(api, "compile_graph", never)
    assert api.compile_reported(checkpoint, **options).compiled is None
    for _ in range(2):  # out of the cache, then because it is there
        copy = api.compile_reported(checkpoint, tmp_path / "copy.gopt", **options)
        assert copy.compiled is None
        assert copy.artifact.path == tmp_path / "copy.gopt"
    weights = "weights/weights-0000.safetensors"
    assert (copy.artifact.path / weights).samefile(first.artifact.path / weights)
    with pytest.raises(RuntimeError, match="compiled again"):
        api.compile_checkpoint(checkpoint, **options, reuse=False)
    with pytest.raises(RuntimeError, match="compiled again"):
        api.compile_checkpoint(checkpoint, **options, keep_stages=True)
    with pytest.raises(RuntimeError, match="compiled again"):
        api.compile_checkpoint(checkpoint, **{**options, "pass_fuel": 1})


def test_reusing_imports_no_compiler(checkpoint: Path, artifact: Path) -> None:
    program = (
        "import sys\nfrom graphopt import api\n"
        "options = {'dtype': 'float32', 'block_size': 4}\n"
        "found = api.compile_reported(sys.argv[1], sys.argv[2], **options)\n"
        "print(found.compiled, {'torch', 'transformers'} & sys.modules.keys())\n"
    )
    words = [sys.executable, "-c", program, checkpoint, artifact]
    done = subprocess.run(words, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("None set()\n", "")


def test_unknown_passes_are_refused_before_the_work(checkpoint: Path) -> None:
    with pytest.raises(UsageError, match="no such pass") as caught:
        api.compile_checkpoint(checkpoint, disabled_passes=["nothing"])
    assert caught.value.expected is not None
    assert "share-common" in caught.value.expected


def test_what_is_cached_and_damaged_is_compiled_again(checkpoint: Path, own_cache: Path) -> None:
    told: list[str] = []
    for damaged in (False, True):
        if damaged:
            (cached,) = (own_cache / "artifacts").iterdir()
            (cached / "plan.json").write_text("{}")
        found = api.open_artifact(checkpoint, progress=lambda stage, *_: told.append(stage))
        assert ("compiling again, for what is cached is damaged" in told) is damaged
    graphopt.read_artifact(found.path)


def test_mismatches_and_misuse_are_refused(artifact: Path, checkpoint: Path) -> None:
    with pytest.raises(ArtifactError, match="does not fit"):
        api.open_artifact(artifact, dtype="bfloat16")
    with pytest.raises(UsageError, match="beyond what the artifact"):
        graphopt.LLM(artifact, max_model_len=4096)
    with pytest.raises(UsageError, match="unknown dtype"):
        api.compile_checkpoint(checkpoint, dtype="int3")
    with pytest.raises(UnsupportedError, match="no kernels for sm_70"):
        api.compile_checkpoint(checkpoint, target="cuda:sm_70")
    with pytest.raises(UsageError, match="unknown choice of instruction sets"):
        api.compile_checkpoint(checkpoint, isa="avx2")
    with graphopt.LLM(artifact) as llm, pytest.raises(CapacityError, match="128"):
        llm.generate([list(range(3, 90)) * 2])


def test_verifying_what_cannot_be_compared_is_refused(artifact: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has no tokenizer"):
        api.verify_artifact(artifact, text="hello")
    for other in (
        save_tiny(tmp_path / "small", vocab_size=50, num_hidden_layers=1),
        save_tiny(tmp_path / "qwen", "qwen3", num_hidden_layers=1),
    ):
        with pytest.raises(UsageError, match="another model"):
            api.verify_artifact(artifact, reference=other, tokens=[1, 2, 3, 96])


def test_a_place_that_cannot_be_written_is_refused_before_the_work(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> None:
        raise RuntimeError("compiled in vain")

    monkeypatch.setattr(api, "compile_graph", never)
    (tmp_path / "file").write_text("x")
    with pytest.raises(MachineError, match="cannot be written"):
        api.compile_checkpoint(checkpoint, tmp_path / "file/a.gopt")
    with pytest.raises(ArtifactError, match="not an artifact"):
        api.compile_checkpoint(checkpoint, tmp_path / "file")
    monkeypatch.setenv("GRAPHOPT_CACHE", str(tmp_path / "file"))
    with pytest.raises(MachineError, match="cannot be written"):
        api.open_artifact(checkpoint)


def test_without_docstrings_compiling_is_refused_and_running_is_not(
    checkpoint: Path, artifact: Path
) -> None:
    program = (
        "import sys, graphopt\n"
        "params = graphopt.SamplingParams(max_tokens=2, temperature=0.0)\n"
        "graphopt.LLM(sys.argv[1]).generate([[5, 6]], params)\n"
        "try:\n    graphopt.compile_checkpoint(sys.argv[2], sys.argv[3])\n"
        "except graphopt.GraphoptError as error:\n    print(error.what)\n"
    )
    words = [sys.executable, "-OO", "-c", program, artifact, checkpoint, artifact.parent / "no"]
    done = subprocess.run(words, capture_output=True, text=True, cwd="/")
    assert (done.returncode, done.stderr) == (0, "")
    assert "without docstrings" in done.stdout


def test_stages_are_kept_when_asked(checkpoint: Path, tmp_path: Path) -> None:
    found = api.compile_checkpoint(checkpoint, tmp_path / "a.gopt", keep_stages=True)
    stages = sorted(p.stem for p in (found.path / "stages").iterdir())
    names = [one.name for one in decoder_pipeline()]
    assert stages == sorted(["traced", "constants", *names])
    assert "rms_norm(" not in found.stage_text("share-common")
    assert "rms_norm(" in found.stage_text("raise-rms-norm")
    assert "q_proj-k_proj-v_proj.weight" not in found.stage_text("merge-linears")
    assert "q_proj-k_proj-v_proj.weight" in found.graph_text()
    with pytest.raises(ArtifactError, match=r"no stage.*\n  expected .*raise-rope"):
        found.stage_text("absent")


@pytest.mark.parametrize("class_name", ["AutoModel", "AutoModelForCausalLM"])
def test_a_decoder_without_its_head_gives_the_rows_of_its_last_layer(
    tmp_path: Path, class_name: str
) -> None:
    """Saved with a head its tensors' names have a prefix, without one they have none."""
    checkpoint = save_tiny(tmp_path / "qwen", "qwen3", class_name=class_name)
    plan = api.compile_checkpoint(checkpoint, tmp_path / "a.gopt", task="embed").plan
    assert plan.embedding == Embedding(64, "last", normalize=True, whole=False)
    assert (plan.limits.vocab_size, plan.limits.max_rows) == (97, 16384)
    generating = api.compile_checkpoint(
        save_tiny(tmp_path / "head", "qwen3"), tmp_path / "b.gopt"
    ).plan
    assert generating.embedding is None

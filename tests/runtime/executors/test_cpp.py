"""Compiled plans against the interpreter, and what comes of artifacts that do not fit."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import graphopt.codegen.cpp.backend as backend
from graphopt.artifact import MANIFEST, MANIFEST_DIGEST, Artifact, _entry, _seal, read_artifact
from graphopt.errors import ArtifactError, MachineError
from graphopt.ir.dtype import DType
from graphopt.isa import ISAS, host_isas
from graphopt.ledger import refuse
from graphopt.packing import Layout
from graphopt.plan import Plan
from graphopt.runtime.engine import Engine, EngineConfig
from graphopt.runtime.executor import SamplingInputs
from graphopt.runtime.executors.cpp import CppExecutor, kernels_for_this_cpu
from graphopt.runtime.sampling_params import SamplingParams
from graphopt.runtime.scheduler import SchedulerLimits
from tests.runtime.fakes import run_all
from tests.runtime.native_decoder import Run, batch, write_native
from tests.runtime.tiny_decoder import VOCAB, Oracle

PROMPT = [5, 11, 2, 28, 7, 7, 0, 19, 4, 13, 1]
OTHER = [3, 3, 17, 26, 9]


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return write_native(tmp_path_factory.mktemp("native") / "tiny.gopt")


@pytest.fixture(scope="module")
def for_all(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return write_native(tmp_path_factory.mktemp("native") / "all.gopt", isas=host_isas())


@pytest.fixture(scope="module")
def oracle() -> Oracle:
    return Oracle()


@pytest.fixture
def copied(artifact: Artifact, tmp_path: Path) -> Path:
    return Path(shutil.copytree(artifact.path, tmp_path / "copy.gopt"))


def relative(found: np.ndarray, want: np.ndarray) -> float:
    return float(np.linalg.norm(found - want) / np.linalg.norm(want))


def opened(artifact: Artifact, blocks: int = 12, threads: int | None = 1) -> CppExecutor:
    executor = CppExecutor(artifact, threads=threads)
    executor.allocate(blocks)
    return executor


def greedy(rows: int) -> SamplingInputs:
    return SamplingInputs(rows)


@pytest.mark.parametrize("threads", [1, 2, 3, None])
def test_a_prefill_and_a_decode_agree_with_the_interpreter(
    artifact: Artifact, oracle: Oracle, threads: int | None
) -> None:
    executor = opened(artifact, threads=threads)
    expected = oracle.logits([*PROMPT, 9])
    assert relative(executor.logits(batch(Run(PROMPT, 0, [6, 0, 3]))), expected[:-1]) < 1e-5
    after = Run([*PROMPT, 9], len(PROMPT), [6, 0, 3])
    assert relative(executor.logits(batch(after)), expected[-1:]) < 1e-5
    wrong = Run([*PROMPT, 9], len(PROMPT), [6, 3, 0])
    assert relative(executor.logits(batch(wrong)), expected[-1:]) > 1e-2, "a wrong table shows"


def test_copied_weights_are_the_same_weights(artifact: Artifact) -> None:
    step = batch(Run(PROMPT, 0, [6, 0, 3]))
    mapped = opened(artifact, threads=2)
    own = CppExecutor(artifact, threads=2, weights="copy")
    own.allocate(12)
    assert np.array_equal(own.logits(step), mapped.logits(step))


def test_run_chooses_from_the_logits(artifact: Artifact) -> None:
    executor = opened(artifact)
    inputs = batch(Run(PROMPT, 0, [6, 0, 3]))
    logits = executor.logits(inputs)
    assert logits.shape == (len(PROMPT), VOCAB)
    assert executor.run(inputs, greedy(len(PROMPT))).token_ids.tolist() == logits.argmax(1).tolist()


def test_no_rows_give_no_logits(artifact: Artifact) -> None:
    executor = opened(artifact)
    inputs = batch(Run(PROMPT, 0, [0, 1, 2], all_rows=False))
    assert executor.logits(inputs).shape == (0, VOCAB)
    assert len(executor.run(inputs, greedy(0)).token_ids) == 0


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_two_sequences_side_by_side(artifact: Artifact, oracle: Oracle, threads: int) -> None:
    """A prefill beside a decode, token by token after that, in blocks that interleave."""
    executor = opened(artifact, threads=threads)
    one, two = [8, 1, 5], [2, 7]
    executor.logits(batch(Run(PROMPT[:4], 0, one)))
    mixed = executor.logits(batch(Run(PROMPT[:5], 4, one), Run(OTHER[:3], 0, two)))
    assert relative(mixed[:1], oracle.logits(PROMPT[:5])[-1:]) < 1e-5
    assert relative(mixed[1:], oracle.logits(OTHER[:3])) < 1e-5
    for count in (4, 5):
        runs = Run(PROMPT[: count + 2], count + 1, one), Run(OTHER[:count], count - 1, two)
        both = executor.logits(batch(*runs))
        for row, tokens in zip(both, (PROMPT[: count + 2], OTHER[:count]), strict=True):
            assert relative(row, oracle.logits(tokens)[-1]) < 1e-5


def test_the_arena_grows_and_numbers_stay(artifact: Artifact, oracle: Oracle) -> None:
    executor = opened(artifact, blocks=40)
    expected = oracle.logits(PROMPT)
    lengths = (1, 2, 11, 3, 9, 1)
    for length in lengths:
        found = executor.logits(batch(Run(PROMPT[:length], 0, [4, 5, 6])))
        assert relative(found, expected[:length]) < 1e-5
    many = [Run(PROMPT, 0, [3 * n, 3 * n + 1, 3 * n + 2]) for n in range(13)]
    found = executor.logits(batch(*many))  # more tokens than before: the arena moves
    for n in range(13):
        assert relative(found[11 * n : 11 * n + 11], expected) < 1e-5
    assert relative(executor.logits(batch(Run(PROMPT[:2], 0, [9, 9, 9]))), expected[:2]) < 1e-5


def test_every_step_is_shown_and_changes_nothing(artifact: Artifact) -> None:
    executor = opened(artifact)
    inputs = batch(Run(PROMPT, 0, [6, 0, 3]))
    plain = executor.logits(inputs)
    seen: list[tuple[str, int]] = []
    shown = executor.logits(inputs, lambda step, made: seen.append((step.kernel, len(made))))
    assert np.array_equal(plain, shown)
    assert seen == [(step.kernel, len(step.results)) for step in artifact.plan.steps()]


@pytest.mark.slow
@pytest.mark.parametrize("name", [isa.name for isa in host_isas()])
def test_each_instruction_set_can_be_forced(
    for_all: Artifact, oracle: Oracle, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRAPHOPT_ISA", name)
    assert kernels_for_this_cpu(for_all).stem == name
    found = opened(for_all).logits(batch(Run(PROMPT, 0, [2, 1, 0])))
    assert relative(found, oracle.logits(PROMPT)) < 1e-5


@pytest.mark.parametrize(
    ("dtype", "quantize", "low", "high"),
    [(DType.BF16, None, 1e-3, 3e-2), (DType.BF16, "int4", 3e-2, 1), (DType.F32, "int4", 3e-2, 1)],
)
def test_fewer_bits_are_near_float32(
    tmp_path: Path, oracle: Oracle, dtype: DType, quantize: str | None, low: float, high: float
) -> None:
    executor = opened(write_native(tmp_path / "tiny.gopt", dtype=dtype, quantize=quantize))
    assert bool(executor._graph.nodes_named("quantized_linear")) == (quantize is not None)
    found = executor.logits(batch(Run(PROMPT, 0, [2, 1, 0])))
    assert found.dtype == np.float32
    assert low < relative(found, oracle.logits(PROMPT)) < high


def test_the_engine_gives_the_models_tokens(artifact: Artifact, oracle: Oracle) -> None:
    engine = Engine(
        CppExecutor(artifact, threads=2), EngineConfig(SchedulerLimits(4, 5, 16, 40), 12)
    )
    prompts = [PROMPT, PROMPT[:3], [8], PROMPT[4:9]]
    for number, prompt in enumerate(prompts):
        engine.add_request(str(number), prompt, SamplingParams(temperature=0.0, max_tokens=16))
    outputs = run_all(engine)
    for number, prompt in enumerate(prompts):
        assert list(outputs[str(number)].token_ids) == oracle.greedy(prompt, 16)


def test_numbers_of_the_plan(artifact: Artifact) -> None:
    executor = CppExecutor(artifact)
    assert (executor.block_size, executor.vocab_size, executor.max_rows) == (4, VOCAB, 16)
    assert executor.bytes_per_block == artifact.plan.bytes_per_block
    assert executor.bytes_per_block >= 4 * 2 * 2 * (4 + 4) * 4


def test_memory_that_is_not_there(artifact: Artifact) -> None:
    for blocks in (1 << 40, 1 << 60):
        with pytest.raises(MachineError, match="KV memory"):
            CppExecutor(artifact).allocate(blocks)


def test_close_lets_go(artifact: Artifact) -> None:
    executor = opened(artifact)
    executor.logits(batch(Run(PROMPT, 0, [0, 1, 2])))
    executor.close()
    executor.close()
    assert executor._calls == ()
    assert executor._state.nbytes == executor._scratch.nbytes == 0


@pytest.fixture
def without_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = {name: maker for name, maker in backend.MAKERS.items() if name != "pointwise"}
    kept["gather"] = lambda graph, region, layouts: refuse("left to PyTorch")
    monkeypatch.setattr(backend, "MAKERS", kept)


@pytest.mark.usefixtures("without_rows")
def test_pytorch_runs_what_has_no_kernel(
    oracle: Oracle, artifact: Artifact, tmp_path: Path
) -> None:
    mixed = write_native(tmp_path / "mixed.gopt")
    assert mixed.plan.backends() == {"cpp", "torch"}
    assert len(mixed.plan.pieces) > 1
    executor, native = opened(mixed, threads=2), opened(artifact, threads=2)
    for length in (11, 1, 7):
        inputs = batch(Run(PROMPT[:length], 0, [6, 0, 3]))
        found = executor.logits(inputs)
        assert relative(found, oracle.logits(PROMPT[:length])) < 1e-5
        assert relative(found, native.logits(inputs)) < 1e-6
    seen: list[str] = []
    executor.logits(inputs, lambda step, made: seen.append(step.kernel))
    assert seen == [step.kernel for step in mixed.plan.steps()]


# What does not fit.


def reseal(path: Path) -> Artifact:
    """The artifact at ``path`` with digests that agree with its files as they are now."""
    manifest = json.loads((path / MANIFEST).read_text())
    manifest["files"] = {name: _entry(path / name) for name in manifest["files"]}
    data = json.dumps(manifest).encode()
    (path / MANIFEST).write_bytes(data)
    (path / MANIFEST_DIGEST).write_bytes(_seal(data))
    return read_artifact(path)


def kernels(path: Path) -> Path:
    return path / "kernels" / f"{host_isas()[0].name}.so"


@pytest.mark.parametrize("keep", [0, 10, 64, 3000, -1])
def test_kernels_that_are_cut_short(copied: Path, keep: int) -> None:
    kernels(copied).write_bytes(kernels(copied).read_bytes()[:keep])
    with pytest.raises(ArtifactError, match="damaged"):
        read_artifact(copied)
    with pytest.raises(ArtifactError, match="kernels cannot be loaded"):
        CppExecutor(reseal(copied))


@pytest.mark.parametrize("data", [b"not a library", b"\x7fELF" + bytes(100), bytes(8192)])
def test_kernels_that_are_none(copied: Path, data: bytes) -> None:
    kernels(copied).write_bytes(data)
    with pytest.raises(ArtifactError, match="kernels cannot be loaded"):
        CppExecutor(reseal(copied))


def test_kernels_that_are_removed_after_the_manifest_was_read(copied: Path) -> None:
    artifact = read_artifact(copied)
    kernels(copied).unlink()
    with pytest.raises(ArtifactError, match="kernels cannot be loaded"):
        CppExecutor(artifact)


def test_kernels_may_be_removed_while_they_run(copied: Path, oracle: Oracle) -> None:
    executor = opened(read_artifact(copied))
    shutil.rmtree(copied)
    found = executor.logits(batch(Run(PROMPT, 0, [2, 1, 0])))
    assert relative(found, oracle.logits(PROMPT)) < 1e-5


def test_kernels_that_lack_a_piece(copied: Path) -> None:
    plan = json.loads((copied / "plan.json").read_text())
    plan["pieces"][0]["body"] = "0123"
    (copied / "plan.json").write_text(json.dumps(plan))
    with pytest.raises(ArtifactError, match="lack a piece") as caught:
        CppExecutor(reseal(copied))
    assert caught.value.got == "piece_0123"


def without_kernels(artifact: Artifact, *kept: str) -> Artifact:
    files = {
        name: row
        for name, row in artifact.manifest["files"].items()
        if not name.endswith(".so") or Path(name).stem in kept
    }
    return replace(artifact, manifest={**artifact.manifest, "files": files})


def test_no_kernels_for_this_cpu(artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ArtifactError, match="no kernels for this CPU") as caught:
        CppExecutor(without_kernels(artifact))
    assert caught.value.got == "none"
    monkeypatch.setenv("GRAPHOPT_ISA", "portable")  # no other is taken in its place
    with pytest.raises(ArtifactError, match="no kernels for this CPU") as caught:
        CppExecutor(without_kernels(artifact, *{isa.name for isa in ISAS} - {"portable"}))
    assert caught.value.expected == "portable"


def test_an_instruction_set_that_the_cpu_lacks(
    artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRAPHOPT_ISA", "avx512")
    monkeypatch.setattr("graphopt.isa.host_features", lambda: frozenset())
    with pytest.raises(MachineError, match="cannot run avx512"):
        CppExecutor(artifact)


def with_plan(artifact: Artifact, plan: Plan) -> Artifact:
    return Artifact(artifact.path, artifact.manifest, plan)


def test_layouts_that_lie(artifact: Artifact) -> None:
    plan = artifact.plan
    name, layout = next((n, one) for n, one in plan.layouts.items() if one.rows == VOCAB)
    lies = [
        Layout.whole(layout.rows + 16, layout.columns),  # not what is stored
        Layout.whole(layout.rows - 1, layout.columns),  # as many panels, but not what the graph has
        Layout.whole(layout.rows, layout.columns, transposed=True),
        None,
    ]
    for lie in lies:
        others = {n: one for n, one in plan.layouts.items() if n != name}
        changed = replace(plan, layouts={**others, **({name: lie} if lie else {})})
        with pytest.raises(ArtifactError, match=name):
            CppExecutor(with_plan(artifact, changed))


def test_weights_of_another_type(copied: Path, tmp_path: Path) -> None:
    half = write_native(tmp_path / "half.gopt", dtype=DType.BF16)
    for file in (half.path / "weights").iterdir():
        shutil.copyfile(file, copied / "weights" / file.name)
    with pytest.raises(ArtifactError, match=r"graph expects|packed as"):
        CppExecutor(reseal(copied))


@pytest.mark.parametrize("nbytes", [1 << 45, 1 << 62])
def test_more_scratch_than_there_is(artifact: Artifact, nbytes: int) -> None:
    with pytest.raises(MachineError, match="no memory for the threads"):
        CppExecutor(with_plan(artifact, replace(artifact.plan, scratch_bytes=nbytes)), threads=2)


@pytest.mark.parametrize("factor", [1 << 40, 1 << 60])
def test_a_workspace_that_is_too_large(artifact: Artifact, factor: int) -> None:
    plan = artifact.plan
    (piece,) = plan.pieces
    place = next(n for n, step in enumerate(piece.steps) if step.workspace != 0)
    step = replace(piece.steps[place], workspace=piece.steps[place].workspace * factor)
    steps = (*piece.steps[:place], step, *piece.steps[place + 1 :])
    executor = opened(with_plan(artifact, replace(plan, pieces=(replace(piece, steps=steps),))))
    with pytest.raises(MachineError, match="no memory for a step"):
        executor.logits(batch(Run(PROMPT, 0, [2, 1, 0])))


def test_steps_that_run_elsewhere(artifact: Artifact) -> None:
    (piece,) = artifact.plan.pieces
    steps = (replace(piece.steps[0], backend="triton"), *piece.steps[1:])
    changed = replace(artifact.plan, pieces=(replace(piece, steps=steps),))
    with pytest.raises(ArtifactError, match="do not run on a CPU"):
        CppExecutor(with_plan(artifact, changed))


FORKED = """
import os, sys
from graphopt.artifact import read_artifact
from graphopt.errors import MachineError
from graphopt.runtime.executors.cpp import CppExecutor
from tests.runtime.native_decoder import Run, batch

def opened():
    executor = CppExecutor(read_artifact(sys.argv[1]), threads=2)
    executor.allocate(8)
    return executor

def forked(work):
    child = os.fork()
    if child == 0:
        try:
            work()
        except MachineError as error:
            print(error, flush=True)
            os._exit(7)
        os._exit(1)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)

inputs = batch(Run([5, 11, 2], 0, [3]))
early = forked(lambda: opened().logits(inputs))  # nobody has had a region
executor = opened()
before = executor.logits(inputs)
status = forked(lambda: executor.logits(inputs)), forked(lambda: opened().logits(inputs))
after = executor.logits(inputs)
sys.exit(int((early, *status) != (1, 7, 7) or not (before == after).all()))
"""


def test_a_fork_is_told_that_its_threads_are_gone(artifact: Artifact) -> None:
    """The executor that it inherits, and one that it opens."""
    answer = subprocess.run(
        [sys.executable, "-c", FORKED, str(artifact.path)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert answer.stdout.count("forked from") == 2
    assert "spawn" in answer.stdout

"""Plans that embed, run by PyTorch and by compiled kernels: vectors beside the interpreter's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from graphopt.artifact import Artifact
from graphopt.embedding import POOLINGS, Dense, Embedding
from graphopt.errors import ArtifactError, DisagreementError
from graphopt.ir.dtype import DType
from graphopt.ir.parser import parse_graph
from graphopt.runtime.executor import RowStatus, SamplingInputs
from graphopt.runtime.executors.cpp import CppExecutor
from graphopt.runtime.llm import LLM
from graphopt.runtime.plan_check import check_plan
from graphopt.runtime.pooling import Pooling

from .native_decoder import Run, batch, write_native
from .tiny_decoder import HIDDEN, VOCAB, Oracle, write_decoder

LENGTH = 48
WHOLE = Embedding(HIDDEN, "mean", True, True)
CHUNKED = Embedding(HIDDEN, "mean", True, False)
Made = Callable[..., Artifact]


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Artifacts with compiled kernels, each written once."""

    @cache
    def write(embedding: Embedding, dtype: DType = DType.F32) -> Artifact:
        path = tmp_path_factory.mktemp("native") / "tiny.gopt"
        return write_native(path, dtype=dtype, embedding=embedding)

    return write


@pytest.fixture(scope="module")
def torches(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Artifacts that PyTorch runs, each written once."""

    @cache
    def write(embedding: Embedding, dtype: DType = DType.F32) -> Artifact:
        path = tmp_path_factory.mktemp("torch") / "tiny.gopt"
        return write_decoder(path, dtype=dtype, embedding=embedding, max_rows=LENGTH)

    return write


def texts() -> list[list[int]]:
    rng = np.random.default_rng(7)
    lengths = [1, 2, 3, 4, 5, 7, 11, 13, 31, LENGTH, 1, 17]
    return [rng.integers(0, VOCAB, length).tolist() for length in lengths]


def expected(text: list[int], embedding: Embedding, oracle: Oracle) -> np.ndarray:
    pool = Pooling(embedding).begin()
    pool.add(oracle.logits(text))
    return pool.finish()


@pytest.mark.parametrize(
    ("backend", "embedding", "dtype"),
    [
        ("native", WHOLE, DType.F32),
        ("native", CHUNKED, DType.F32),
        ("torches", WHOLE, DType.F32),
        ("torches", CHUNKED, DType.F32),
        ("torches", WHOLE, DType.BF16),
        pytest.param("native", WHOLE, DType.BF16, marks=pytest.mark.full),
    ],
)
def test_vectors_are_those_of_the_interpreter(request, backend, embedding, dtype):
    close = 2e-6 if dtype is DType.F32 else 4e-2
    artifact = request.getfixturevalue(backend)(embedding, dtype)
    oracle = Oracle(dtype, embedding)
    with LLM(artifact, max_num_batched_tokens=LENGTH, max_num_seqs=5, threads=1) as llm:
        outputs = llm.embed(texts())
    for text, output in zip(texts(), outputs, strict=True):
        want = expected(text, embedding, oracle)
        np.testing.assert_allclose(output.embedding, want, atol=close)
        assert output.embedding @ want > 1.0 - close / 10


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("whole", [True, False])
def test_each_pooling_reads_its_rows(native, pooling, whole):
    plan = Embedding(HIDDEN, "mean", True, whole)
    artifact = native(plan)
    embedding = Embedding(HIDDEN, pooling, False, whole)
    oracle = Oracle(embedding=plan)
    artifact = replace(artifact, plan=replace(artifact.plan, embedding=embedding))
    with LLM(artifact, max_num_batched_tokens=LENGTH, threads=1) as llm:
        for text, output in zip(texts(), llm.embed(texts()), strict=True):
            want = expected(text, embedding, oracle)
            np.testing.assert_allclose(output.embedding, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("embedding", [WHOLE, CHUNKED])
def test_neither_the_batch_nor_chunks_show_in_a_bit(native, embedding):
    given, found = texts(), set()
    for tokens in [LENGTH] if embedding.whole else [5, 17, LENGTH]:
        options = {"max_num_batched_tokens": tokens, "max_num_seqs": 4, "threads": 1}
        with LLM(native(embedding), **options) as llm:
            alone = [llm.embed([text])[0] for text in given]
            for outputs in (alone, llm.embed(given), llm.embed(given[::-1])[::-1]):
                found.add(b"".join(one.embedding.tobytes() for one in outputs))
    assert len(found) == 1


def test_dense_layers_are_read_from_the_artifact(tmp_path):
    rng = np.random.default_rng(5)
    arrays = {
        "dense.weight": rng.standard_normal((5, HIDDEN)).astype(np.float32),
        "dense.bias": rng.standard_normal(5).astype(np.float32),
    }
    layer = Dense("dense.weight", "dense.bias", HIDDEN, 5, "tanh")
    embedding = replace(WHOLE, dense=(layer,), normalize=False)
    path = tmp_path / "dense.gopt"
    write_decoder(path, embedding=embedding, dense=arrays, max_rows=LENGTH)
    text = texts()[4]
    mean = expected(text, replace(WHOLE, normalize=False), Oracle(embedding=WHOLE))
    with LLM(path) as llm:
        (output,) = llm.embed([text])
    want = np.tanh(arrays["dense.weight"] @ mean + arrays["dense.bias"])
    np.testing.assert_allclose(output.embedding, want, atol=1e-5)
    write_decoder(tmp_path / "none.gopt", embedding=embedding, max_rows=LENGTH)
    with pytest.raises(ArtifactError):
        LLM(tmp_path / "none.gopt")


def test_rows_of_compiled_kernels_are_not_copied(native):
    executor = CppExecutor(native(WHOLE), threads=1)
    executor.allocate(8)
    inputs = batch(Run([1, 2, 3], 0, [2]), Run([4], 0, [5]))
    reaches = np.array([3, 3, 3, 1], np.int32)
    inputs = replace(inputs, reaches=reaches)
    found = executor.run(inputs, SamplingInputs(4))
    assert found.token_ids.tolist() == [0] * 4
    assert found.status is None
    assert found.vectors.shape == (4, HIDDEN)
    assert not found.vectors.flags.owndata, "they lie in the arena"
    np.testing.assert_array_equal(found.vectors, executor.logits(inputs))
    executor.close()


def test_rows_that_are_not_finite_are_told(native, monkeypatch):
    with LLM(native(CHUNKED), threads=1) as llm:
        executor = llm.engine._executor
        logits = executor._logits

        def poisoned(sizes):
            rows = logits(sizes)
            rows[1, 3] = np.nan
            return rows

        monkeypatch.setattr(executor, "_logits", poisoned)
        with pytest.raises(DisagreementError, match="rows are not finite"):
            llm.embed([[1, 2, 3], [4]])
        found = executor.run(batch(Run([1, 2, 3], 0, [2])), SamplingInputs(3))
        ok, wrong = RowStatus.OK, RowStatus.NOT_FINITE
        assert found.status.tolist() == [ok, wrong, ok]


def test_a_plan_and_a_graph_of_different_kinds_are_refused(native):
    artifact = native(WHOLE)
    graph = parse_graph(artifact.graph_text())
    check_plan(artifact.plan, graph)
    for wrong, what in (
        (None, "the vocabulary"),
        (replace(WHOLE, size=HIDDEN + 1), "the size of a row"),
        (replace(WHOLE, whole=False), "what tokens see"),
    ):
        with pytest.raises(ArtifactError, match=what):
            check_plan(replace(artifact.plan, embedding=wrong), graph)

"""Texts become vectors in the engine: in any batch, whole or in chunks, through errors and aborts.

The model is a hash of what a row sees in KV memory, so each wrong block, position, row or reach
makes another vector.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import pytest

from graphopt.embedding import POOLINGS, Dense, Embedding
from graphopt.errors import (
    ArtifactError,
    CapacityError,
    DisagreementError,
    GraphoptError,
    MachineError,
    RequestError,
    UsageError,
)
from graphopt.runtime.engine import Engine, EngineConfig
from graphopt.runtime.executor import Sampled
from graphopt.runtime.policies import Priority
from graphopt.runtime.pooling import Pooling
from graphopt.runtime.sampling_params import SamplingParams
from graphopt.runtime.scheduler import SchedulerLimits

from .fakes import HashRows, OverlappingRows, content, make_engine, row_of, run_all

WHOLE = Embedding(6, "mean", True, True)
CHUNKED = Embedding(6, "mean", True, False)


def engine_of(
    embedding: Embedding,
    *,
    num_blocks: int = 64,
    seqs: int = 8,
    tokens: int = 32,
    rows: int = 64,
    length: int = 32,
    block_size: int = 2,
    kind: type[HashRows] = HashRows,
    **options: object,
) -> Engine:
    executor = kind(embedding, 13, block_size, rows)
    limits = SchedulerLimits(seqs, tokens, rows, length)
    return Engine(executor, EngineConfig(limits, num_blocks), **options)


def vector(tokens: Sequence[int], embedding: Embedding, **options: object) -> np.ndarray:
    """The vector of a text, without any engine."""
    ids = np.array(tokens)
    memory = content(ids, np.arange(len(ids)))
    pool = Pooling(embedding, **options).begin()
    for place in range(len(ids)):
        seen = memory if embedding.whole else memory[: place + 1]
        pool.add(row_of(seen, place, embedding.size)[None])
    return pool.finish()


def texts_of(count: int, most: int, seed: int) -> list[list[int]]:
    rng = random.Random(seed)
    return [[rng.randrange(13) for _ in range(rng.randint(1, most))] for _ in range(count)]


def embed_all(engine: Engine, texts: Sequence[Sequence[int]]) -> dict[str, object]:
    for number, text in enumerate(texts):
        engine.add_embedding(str(number), text)
    return run_all(engine)


def same(output: object, text: Sequence[int], embedding: Embedding) -> bool:
    assert output.error is None
    return output.embedding.tobytes() == vector(text, embedding).tobytes()


@pytest.mark.parametrize("kind", [HashRows, OverlappingRows])
@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("pooling", POOLINGS)
def test_each_pooling_in_batches_of_all_kinds(pooling, whole, kind):
    embedding = Embedding(6, pooling, True, whole)
    texts = [[3], *texts_of(40, 32, 1), list(range(13)) * 2 + [1] * 6]
    outputs = embed_all(engine_of(embedding, kind=kind), texts)
    assert all(same(outputs[str(n)], text, embedding) for n, text in enumerate(texts))
    one = outputs["3"]
    assert one.prompt_token_ids == tuple(texts[3])
    assert one.finish_reason == "stop"
    assert one.completions[0].token_ids == ()
    assert one.metrics.finished_s >= one.metrics.started_s >= one.metrics.arrival_s


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("kind", [HashRows, OverlappingRows])
@pytest.mark.parametrize("whole", [True, False])
def test_arrivals_aborts_failures_and_little_of_everything(whole, kind, seed):
    rng = random.Random(seed)
    length, size = rng.choice([5, 8, 17]), rng.choice([1, 2, 3, 4])
    seqs = rng.choice([1, 2, 5])
    embedding = Embedding(3, rng.choice(POOLINGS), rng.random() < 0.5, whole)
    engine = engine_of(
        embedding,
        num_blocks=-(-length // size) + rng.choice([0, 1, 7]),
        seqs=seqs,
        tokens=max(seqs, length if whole else 3),
        rows=max(seqs, length if whole else 3),
        length=length,
        block_size=size,
        kind=kind,
    )
    texts, ended = {}, {}
    for number, text in enumerate(texts_of(60, length, seed + 100)):
        texts[str(number)] = text
        engine.add_embedding(str(number), text)
        for _ in range(rng.choice([0, 1, 1, 2])):
            if rng.random() < 0.05:
                engine._executor.fail_at(rng.choice(["start", "finish"]))
            step = engine.step()
            engine.check()
            assert step.deltas == ()
            ended.update({one.request_id: one for one in step.finished})
        if rng.random() < 0.1:
            output = engine.abort(rng.choice(list(texts)))
            engine.check()
            if output is not None:
                assert (output.finish_reason, output.embedding) == ("abort", None)
                ended[output.request_id] = None
    ended.update(run_all(engine))
    assert ended.keys() == texts.keys()
    assert engine.kv_usage == 0.0
    for name, output in ended.items():
        if output is not None and output.error is not None:
            assert isinstance(output.error, MachineError)
            assert output.embedding is None
        elif output is not None:
            assert same(output, texts[name], embedding)


def test_a_text_gets_all_its_tokens_in_one_step_or_none():
    engine = engine_of(WHOLE, tokens=10, length=10, seqs=8)
    texts = [[1] * 4, [2] * 4, [3] * 9, [4] * 2, [5] * 2, [6] * 10]
    outputs = embed_all(engine, texts)
    shapes = engine._executor.shapes
    assert [shape.tokens for shape in shapes] == [8, 9, 4, 10]
    assert [shape.sequences for shape in shapes] == [2, 1, 2, 1]
    assert all(same(outputs[str(n)], text, WHOLE) for n, text in enumerate(texts))


@pytest.mark.parametrize("kind", [HashRows, OverlappingRows])
def test_a_long_text_is_not_overtaken_for_ever(kind):
    engine = engine_of(WHOLE, tokens=10, length=10, num_blocks=6, kind=kind)
    engine.add_embedding("short", [1, 2])
    engine.add_embedding("long", [3] * 10)
    for step in range(6):
        engine.add_embedding(f"later {step}", [4])
        done = [one.request_id for one in engine.step().finished]
        engine.check()
        if "long" in done:
            break
    assert "long" in done
    run_all(engine)


def test_texts_in_chunks_share_steps():
    engine = engine_of(CHUNKED, tokens=5, seqs=3, rows=4)
    texts = texts_of(9, 20, 5)
    outputs = embed_all(engine, texts)
    assert all(same(outputs[str(n)], text, CHUNKED) for n, text in enumerate(texts))
    shapes = engine._executor.shapes
    assert max(shape.rows for shape in shapes) == 4
    assert any(shape.sequences > 1 for shape in shapes)


@pytest.mark.parametrize("pooling", ["cls", "last"])
@pytest.mark.parametrize("whole", [True, False])
def test_one_row_is_asked_for_where_one_is_enough(pooling, whole):
    embedding = Embedding(6, pooling, False, whole)
    engine = engine_of(embedding, rows=4, seqs=4, tokens=32 if whole else 7)
    texts = texts_of(10, 32, 6)
    outputs = embed_all(engine, texts)
    assert all(same(outputs[str(n)], text, embedding) for n, text in enumerate(texts))
    assert sum(shape.rows for shape in engine._executor.shapes) == len(texts)


def test_a_full_context_that_does_not_fit_a_step_is_refused():
    for name, sizes in (("max_num_batched_tokens", {"tokens": 31}), ("max_rows", {"rows": 31})):
        with pytest.raises(UsageError, match="in one step") as caught:
            engine_of(WHOLE, **sizes)
        assert name in caught.value.got
    engine_of(CHUNKED, tokens=31, rows=31)
    engine_of(Embedding(6, "cls", True, True), rows=31)


@pytest.mark.parametrize("embedding", [WHOLE, CHUNKED])
def test_the_context_is_the_limit(embedding):
    engine = engine_of(embedding)
    assert same(embed_all(engine, [[1] * 32])["0"], [1] * 32, embedding)
    with pytest.raises(CapacityError, match="context") as caught:
        engine.add_embedding("a", [1] * 33)
    assert caught.value.got == "33 prompt tokens"
    few = engine_of(embedding, num_blocks=3)
    assert same(embed_all(few, [[1] * 6])["0"], [1] * 6, embedding)
    with pytest.raises(CapacityError, match="KV memory"):
        few.add_embedding("a", [1] * 7)
    assert not engine.has_work


def test_what_is_no_text_is_refused():
    engine = engine_of(WHOLE)
    engine.add_embedding("a", [1])
    for ids in ([], [13], [-1], [True], "text"):
        with pytest.raises(RequestError):
            engine.add_embedding("b", ids)
    with pytest.raises(RequestError, match="in use"):
        engine.add_embedding("a", [1])


def test_each_task_names_the_other():
    with pytest.raises(RequestError, match="into vectors") as caught:
        engine_of(WHOLE).add_request("a", [1], SamplingParams())
    assert "LLM.embed" in caught.value.next
    with pytest.raises(RequestError, match="generates") as caught:
        make_engine().add_embedding("a", [1])
    assert "LLM.generate" in caught.value.next


@pytest.mark.parametrize("kind", [HashRows, OverlappingRows])
def test_a_row_that_is_not_finite_ends_its_text_alone(kind):
    engine = engine_of(WHOLE, kind=kind)
    engine._executor.poison_token = 12
    texts = [[1, 2, 3], [4, 12, 5], [6]]
    outputs = embed_all(engine, texts)
    assert isinstance(outputs["1"].error, DisagreementError)
    assert "not finite" in str(outputs["1"].error)
    assert outputs["1"].embedding is None
    assert same(outputs["0"], texts[0], WHOLE)
    assert same(outputs["2"], texts[2], WHOLE)


def test_a_vector_that_overflows_ends_its_text():
    dense = Embedding(1, "cls", False, True, (Dense("w", "", 1, 1, "identity"),))
    huge = {"w": np.full((1, 1), 3e38, np.float32)}
    pooling = Pooling(dense, huge.__getitem__)
    engine = engine_of(dense, pooling=pooling)
    texts = texts_of(8, 9, 3)
    for number, output in embed_all(engine, texts).items():
        expected = vector(texts[int(number)], dense, read=huge.__getitem__)
        if np.isfinite(expected).all():
            assert output.embedding == expected
        else:
            assert isinstance(output.error, DisagreementError)
    with pytest.raises(ArtifactError, match="dense"):
        engine_of(dense)


def test_an_executor_that_gives_no_rows_is_noticed():
    engine = engine_of(WHOLE)
    engine._executor.run = lambda inputs, sampling: Sampled(np.zeros(3, np.int64))
    assert isinstance(embed_all(engine, [[1, 2, 3]])["0"].error, GraphoptError)


def test_the_more_urgent_text_goes_first():
    engine = engine_of(WHOLE, tokens=8, length=8, policy=Priority())
    engine.add_embedding("patient", [1] * 8, priority=1)
    engine.add_embedding("urgent", [2] * 8)
    assert [one.request_id for one in engine.step().finished] == ["urgent"]
    run_all(engine)


def test_tokens_are_counted():
    engine = engine_of(CHUNKED, tokens=5, seqs=3)
    texts = texts_of(7, 20, 8)
    embed_all(engine, texts)
    assert engine.totals.prompt_tokens == sum(map(len, texts))
    assert engine.totals.generated_tokens == engine.totals.preemptions == 0

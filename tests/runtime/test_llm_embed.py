"""The library's front of a model that embeds, over the hash model."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from graphopt.embedding import Embedding
from graphopt.errors import CapacityError, DisagreementError, MachineError, RequestError, UsageError
from graphopt.runtime.llm import LLM
from graphopt.runtime.sampling_params import SamplingParams

from .fakes import FakeModel, HashExecutor, HashRows, OverlappingRows, small_plan
from .test_embeddings import texts_of, vector
from .tokenizers_zoo import save_tokenizer

WHOLE = Embedding(8, "mean", True, True)
CHUNKED = Embedding(8, "last", True, False)


def llm_of(embedding=WHOLE, *, kind=HashRows, vocab=13, folder=None, **options) -> LLM:
    plan = replace(small_plan(vocab_size=vocab), embedding=embedding)
    return LLM(FakeModel(plan, {}, folder), executor=kind(embedding, vocab), **options)


def test_texts_in_every_form():
    llm = llm_of()
    expected = vector([1, 2], WHOLE)
    for prompts in ([1, 2], np.array([1, 2]), [[1, 2]], ((1, 2),)):
        (output,) = llm.embed(prompts)
        np.testing.assert_array_equal(output.embedding, expected)
    assert output.prompt_token_ids == (1, 2)
    assert output.metrics.finished_s >= output.metrics.arrival_s
    assert llm.embed([]) == []
    assert llm.embedding is WHOLE


@pytest.mark.parametrize(("embedding", "kind"), [(CHUNKED, HashRows), (WHOLE, OverlappingRows)])
def test_ten_thousand_texts_in_one_call(embedding, kind):
    llm = llm_of(embedding, kind=kind, max_num_batched_tokens=256, max_num_seqs=64)
    texts = texts_of(10_000, 2, seed=1)
    told = []
    outputs = llm.embed(texts, progress=lambda *step: told.append(step))
    known = {}
    for text, output in zip(texts, outputs, strict=True):
        if tuple(text) not in known:
            known[tuple(text)] = vector(text, embedding).tobytes()
        assert output.embedding.tobytes() == known[tuple(text)]
    assert told[0] == ("embedding", 0, 10_000)
    assert told[-1] == ("embedding", 10_000, 10_000)
    assert not llm.engine.has_work
    assert llm.engine.kv_usage == 0.0


def test_text_gets_what_the_tokenizer_puts_around_it(tmp_path):
    llm = llm_of(vocab=400, folder=save_tokenizer(tmp_path, {}))
    (output,) = llm.embed("some words")
    assert list(output.prompt_token_ids) == llm.tokenizer.encode("some words")


@pytest.mark.parametrize("normalize", [True, False])
def test_fewer_dimensions(normalize):
    embedding = replace(WHOLE, normalize=normalize)
    llm = llm_of(embedding)
    whole, short = (llm.embed([3, 4], dimensions=count)[0].embedding for count in (8, 3))
    np.testing.assert_array_equal(whole, vector([3, 4], embedding))
    expected = whole[:3] / np.linalg.norm(whole[:3]) if normalize else whole[:3]
    np.testing.assert_allclose(short, expected, rtol=1e-6)
    for dimensions in (0, 9, -1, 1.5, True):
        with pytest.raises(RequestError, match="dimensions"):
            llm.embed([3, 4], dimensions=dimensions)
    assert not llm.engine.has_work


def test_one_wrong_text_refuses_the_call():
    llm = llm_of()
    for wrong, error in (([], RequestError), ([99], RequestError), ([1] * 65, CapacityError)):
        with pytest.raises(error):
            llm.embed([[1, 2], wrong])
        assert not llm.engine.has_work
    assert llm.engine._executor.steps == 0
    assert len(llm.embed([[1] * 64])) == 1
    with pytest.raises(RequestError, match="no tokenizer"):
        llm.embed("text")


def test_a_step_that_fails_ends_the_call_and_no_more():
    llm = llm_of()
    llm.engine._executor.fail_next = RuntimeError("boom")
    with pytest.raises(MachineError, match="could not be run"):
        llm.embed([[1, 2], [3]])
    llm.engine._executor.poison_token = 12
    with pytest.raises(DisagreementError, match="not finite"):
        llm.embed([[1, 2], [12]])
    assert len(llm.embed([[1, 2], [3]])) == 2


def test_each_task_names_the_other():
    llm = llm_of()
    for ask in (
        lambda: llm.generate([1]),
        lambda: llm.generate([]),
        lambda: next(llm.stream([1])),
        lambda: llm.chat([{"role": "user", "content": "a"}]),
        lambda: llm.score([1, 2]),
    ):
        with pytest.raises(RequestError, match="into vectors") as caught:
            ask()
        assert "LLM.embed" in caught.value.next
    generating = LLM(FakeModel(), executor=HashExecutor())
    assert generating.embedding is None
    for prompts in ([1], []):
        with pytest.raises(RequestError, match="generates") as caught:
            generating.embed(prompts)
        assert "LLM.generate" in caught.value.next


def test_priorities_and_threads():
    llm = llm_of(scheduling_policy="priority")
    texts = texts_of(12, 20, seed=3)
    outputs = llm.embed(texts, priority=list(range(12)))
    assert all(len(output.embedding) == 8 for output in outputs)
    with pytest.raises(UsageError, match="priorities"):
        llm.embed(texts, priority=[1])
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda text: llm.embed([text])[0].embedding, texts))
    for text, got in zip(texts, found, strict=True):
        np.testing.assert_array_equal(got, vector(text, WHOLE))


def test_a_model_that_was_closed():
    llm = llm_of()
    llm.close()
    with pytest.raises(UsageError, match="closed"):
        llm.embed([1])


def test_a_text_that_somebody_drops_is_told():
    llm = llm_of()
    step = llm.engine.step

    def dropping():
        llm.engine.step = step
        output = llm.engine.abort("0")
        return replace(step(), finished=(output,))

    llm.engine.step = dropping
    with pytest.raises(UsageError, match="dropped"):
        llm.embed([1])


def test_parameters_of_sampling_mean_nothing_here():
    llm = llm_of()
    with pytest.raises(RequestError):
        llm.engine.add_request("a", [1], SamplingParams())

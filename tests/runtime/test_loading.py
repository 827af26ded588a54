"""How a model is opened, for the library and for the server's engine process alike."""

from __future__ import annotations

from dataclasses import asdict, replace

import pytest

from graphopt.embedding import Embedding
from graphopt.errors import ArtifactError, MachineError, RequestError, UsageError
from graphopt.runtime.loading import LoadOptions, engine_limits, load_engine
from graphopt.runtime.prefix_cache import Scope
from graphopt.runtime.sampling_params import SamplingParams
from graphopt.runtime.scheduler import SchedulerLimits

from .fakes import FakeModel, HashExecutor, HashRows, greedy, run_all, small_plan
from .tokenizers_zoo import save_tokenizer


def test_a_step_on_a_gpu_holds_more():
    gpu = replace(small_plan(max_rows=1024), target="cuda:sm_90")
    assert engine_limits(gpu).max_num_seqs == 256
    assert engine_limits(gpu).max_num_batched_tokens == 2048
    assert engine_limits(small_plan(max_rows=1024)).max_num_seqs == 64
    assert engine_limits(gpu, num_tokens=100).max_num_seqs == 100


def embedding_plan(pooling="mean", *, whole=True, length=512, rows=4096, target="cpu"):
    embedding = Embedding(8, pooling, True, whole)
    plan = small_plan(max_rows=rows, max_model_len=length)
    return replace(plan, embedding=embedding, target=target)


@pytest.mark.parametrize("target", ["cpu", "cuda:sm_90"])
def test_a_full_context_fits_a_step_of_whole_texts(target):
    usual = 1024 if target == "cpu" else 2048
    for length, rows, pooling, expected in (
        (512, 4096, "mean", (256, usual, 512)),
        (8192, 16384, "mean", (256, 8192, 8192)),
        (8192, 4096, "mean", (256, 4096, 4096)),
        (8192, 4096, "cls", (256, 8192, 8192)),
        (512, 16, "cls", (16, usual, 512)),
    ):
        plan = embedding_plan(pooling, length=length, rows=rows, target=target)
        found = engine_limits(plan)
        assert found == SchedulerLimits(*expected[:2], rows, expected[2])
    chunked = engine_limits(embedding_plan(whole=False, length=8192, rows=64, target=target))
    assert (chunked.max_num_batched_tokens, chunked.max_model_len) == (usual, 8192)


def test_what_is_asked_for_of_whole_texts_is_given_or_refused():
    plan = embedding_plan(length=8192, rows=4096)
    assert engine_limits(plan, num_tokens=300).max_model_len == 300
    assert engine_limits(plan, num_tokens=300).max_num_seqs == 256
    assert engine_limits(plan, model_len=2000).max_num_batched_tokens == 2000
    assert engine_limits(plan, model_len=100).max_num_batched_tokens == 1024
    assert engine_limits(plan, num_tokens=300, model_len=300).max_model_len == 300
    with pytest.raises(UsageError, match="in one step") as caught:
        engine_limits(plan, num_tokens=300, model_len=301)
    assert "max_num_batched_tokens 300" in caught.value.got
    with pytest.raises(UsageError, match="in one step") as caught:
        engine_limits(plan, model_len=4097)
    assert caught.value.next == "lower max_model_len to 4096"


def test_what_embeds_is_loaded_without_a_prefix_cache():
    told = []
    plan = embedding_plan(length=64)
    loaded = load_engine(
        FakeModel(plan),
        LoadOptions(),
        executor=HashRows(plan.embedding, max_rows=4096),
        progress=lambda what, done, total: told.append(what),
    )
    assert any(one.startswith("prefix cache: off, for a vector") for one in told)
    assert loaded.engine._cache.scope is Scope.NONE
    loaded.engine.add_embedding("one", [1, 2])
    assert run_all(loaded.engine)["one"].embedding.shape == (8,)
    loaded.close()


def test_what_is_loaded_generates_and_is_closed():
    executor, told = HashExecutor(), []
    loaded = load_engine(
        FakeModel(),
        LoadOptions(seed=3, max_model_len=20),
        executor=executor,
        progress=lambda what, done, total: told.append(what),
    )
    assert told[0] == "checking the artifact"
    assert told[-1] == "loading the weights"
    assert any(one.startswith("memory: ") for one in told)
    assert loaded.memory.num_blocks > 0
    assert loaded.engine.scheduler.context_limit == 20
    params = SamplingParams(temperature=0.0, max_tokens=6, ignore_eos=True)
    loaded.engine.add_request("one", [1, 2], params)
    assert list(run_all(loaded.engine)["one"].token_ids) == greedy([1, 2], 6)
    loaded.close()
    assert executor.closed


def test_an_engine_that_gives_no_text_knows_the_ends_all_the_same(tmp_path):
    folder = save_tokenizer(tmp_path, {})
    model = FakeModel(small_plan(vocab_size=400), {"eos_token_id": [5, 4000]}, folder)
    loaded = load_engine(model, LoadOptions(), executor=HashExecutor(400), gives_text=False)
    assert 5 in loaded.words.eos
    assert 4000 not in loaded.words.eos
    with pytest.raises(RequestError, match="stop strings"):
        loaded.engine.add_request("one", [1], SamplingParams(stop="a"))
    loaded.engine.add_request("one", [1], SamplingParams(max_tokens=2))
    assert run_all(loaded.engine)["one"].text == ""


@pytest.mark.parametrize(
    ("kind", "enabled", "scope"),
    [
        ("kv", True, Scope.ALL),
        ("latent", True, Scope.ALL),
        ("kv", False, Scope.REQUEST),
        ("recurrent", True, Scope.NONE),
    ],
)
def test_prompts_are_found_again_where_blocks_hold_all_there_is(kind, enabled, scope):
    plan, told = small_plan(), []
    loaded = load_engine(
        FakeModel(replace(plan, state=replace(plan.state, kind=kind))),
        LoadOptions(enable_prefix_caching=enabled),
        executor=HashExecutor(),
        progress=lambda what, done, total: told.append(what),
    )
    assert loaded.engine.scheduler.cache.scope is scope
    assert any("prefix cache: off" in one for one in told) == (scope is Scope.NONE)


def test_what_cannot_be_opened_leaves_nothing_behind(tmp_path):
    executor = HashExecutor()
    with pytest.raises(ArtifactError, match="no executor"):
        load_engine(FakeModel(), LoadOptions())
    with pytest.raises(UsageError, match="cannot be written"):
        load_engine(
            FakeModel(), LoadOptions(record_trace=tmp_path / "no" / "trace"), executor=executor
        )
    with pytest.raises(MachineError):
        load_engine(FakeModel(), LoadOptions(kv_cache_memory=1), executor=executor)
    with pytest.raises(ArtifactError):
        load_engine(tmp_path / "nothing.gopt", LoadOptions())
    assert executor.steps == 0


def test_options_are_plain_data():
    assert all(
        value is None or isinstance(value, str | int | float)
        for value in asdict(LoadOptions()).values()
    )

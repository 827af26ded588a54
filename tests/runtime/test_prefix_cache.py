"""What is found again and what is not: full blocks under the same salt, and nothing a step that
failed has written. The hash model shows a block that holds something else as wrong tokens."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from graphopt.embedding import Embedding
from graphopt.errors import DisagreementError, GraphoptError, MachineError
from graphopt.ir.dtype import DType
from graphopt.ir.types import LayerState, StateType
from graphopt.runtime.prefix_cache import PrefixCache, Scope, reason_without
from graphopt.runtime.sampling_params import SamplingParams
from graphopt.runtime.sequence import Status

from .fakes import HashExecutor, OverlappingHash, greedy, make_engine, run_all

TEXT = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 3, 2, 3]
BOTH = pytest.mark.parametrize("executor", [HashExecutor, OverlappingHash])


def ask(engine, name: str, prompt: list[int], count: int = 5, salt: bytes = b"", **params: object):
    """Run one request to its end; its greedy tokens have to be those of the model."""
    values = SamplingParams(temperature=0.0, max_tokens=count, **params)
    engine.add_request(name, prompt, values, cache_salt=salt)
    output = run_all(engine)[name]
    if not engine._config.eos_token_ids:
        assert list(output.token_ids) == greedy(prompt, count)
    return output


@BOTH
@pytest.mark.parametrize("budget", [64, 3])
@pytest.mark.parametrize("size", [3, 4, 5, 11, 12, 13])
def test_a_prompt_is_found_but_for_its_last_token(executor, size, budget):
    engine = make_engine(
        executor_type=executor, block_size=4, max_num_seqs=3, max_num_batched_tokens=budget
    )
    assert ask(engine, "first", TEXT[:size]).metrics.cached_tokens == 0
    again = ask(engine, "again", TEXT[:size])
    assert again.metrics.cached_tokens == (size - 1) // 4 * 4
    assert ask(engine, "longer", TEXT[: size + 1]).metrics.cached_tokens == size // 4 * 4
    totals = engine.totals
    assert totals.prefix_queries == 3 * size + 1
    assert totals.prefix_hits == (size - 1) // 4 * 4 + size // 4 * 4
    assert totals.prompt_tokens == totals.prefix_queries


@BOTH
def test_an_answer_is_found_when_the_conversation_goes_on(executor):
    engine = make_engine(executor_type=executor, block_size=4)
    first = ask(engine, "first", TEXT[:6], count=7)
    told = [*TEXT[:6], *first.token_ids]
    assert ask(engine, "next", [*told, 1, 2]).metrics.cached_tokens == 12
    # The last token of an answer is drawn and not computed: its block is not full.
    assert ask(engine, "other", [*told[:12], 0, 1, 2]).metrics.cached_tokens == 12


def test_another_beginning_is_another_text():
    engine = make_engine(block_size=4)
    ask(engine, "first", TEXT[:12])
    assert ask(engine, "changed", [0, *TEXT[1:12]]).metrics.cached_tokens == 0
    assert ask(engine, "moved", TEXT[4:12]).metrics.cached_tokens == 0
    assert ask(engine, "turned", [*TEXT[:6], 0, *TEXT[7:12]]).metrics.cached_tokens == 4


def test_a_salt_keeps_its_own():
    engine = make_engine(block_size=4)
    ask(engine, "first", TEXT[:12])
    assert ask(engine, "other", TEXT[:12], salt=b"a").metrics.cached_tokens == 0
    assert ask(engine, "same", TEXT[:12], salt=b"a").metrics.cached_tokens == 8
    assert ask(engine, "none", TEXT[:12]).metrics.cached_tokens == 8


def test_names_are_secret():
    pool = SimpleNamespace(block_size=4)
    one, other = PrefixCache(pool), PrefixCache(pool)
    assert one.root(b"a") == one.root(b"a") != one.root(b"b")
    assert one.root(b"a") != other.root(b"a")
    assert len(one.root(b"")) == 32


def test_without_it_only_the_samples_of_a_request_share():
    engine = make_engine(block_size=4, prefix_scope=Scope.REQUEST)
    ask(engine, "first", TEXT[:12])
    assert ask(engine, "again", TEXT[:12]).metrics.cached_tokens == 0
    computed = engine.totals.prompt_tokens
    assert ask(engine, "three", TEXT[:12], n=3).metrics.cached_tokens == 0
    assert engine.totals.prompt_tokens - computed == 12 + 4 + 4
    assert (engine.totals.prefix_queries, engine.totals.prefix_hits) == (0, 0)


def test_what_blocks_do_not_hold_is_not_shared_at_all():
    engine = make_engine(block_size=4, prefix_scope=Scope.NONE)
    ask(engine, "first", TEXT[:12])
    ask(engine, "three", TEXT[:12], n=3)
    assert engine.totals.prompt_tokens == 4 * 12
    assert engine._pool.num_named == 0


def test_states_that_do_not_lie_in_blocks_are_told_apart():
    layers = (LayerState(1, 4, 4, DType.F32, 16),)
    assert reason_without(StateType("kv", layers)) is None
    assert reason_without(StateType("latent", layers)) is None
    assert "recurrent state" in reason_without(StateType("recurrent", layers))
    embedding = Embedding(4, "last", True, False)
    assert "a vector" in reason_without(StateType("kv", layers), embedding)


@BOTH
def test_requests_that_arrive_together_compute_what_they_share_once(executor):
    engine = make_engine(executor_type=executor, block_size=4, max_num_batched_tokens=8)
    params = SamplingParams(temperature=0.0, max_tokens=3)
    prompts = {str(last): [*TEXT[:13], last] for last in range(4)}
    for name, prompt in prompts.items():
        engine.add_request(name, prompt, params)
    outputs = run_all(engine)
    for name, prompt in prompts.items():
        assert list(outputs[name].token_ids) == greedy(prompt, 3)
    assert engine.totals.prefix_hits == 3 * 12


def test_scores_are_computed_and_their_blocks_found():
    engine = make_engine(block_size=4)
    ask(engine, "first", TEXT[:12])
    scored = ask(engine, "scored", TEXT[:12], prompt_logprobs=1)
    assert scored.metrics.cached_tokens == 0
    assert len(scored.prompt_logprobs) == 12
    assert engine.totals.prefix_queries == 12, "it does not ask"
    engine = make_engine(block_size=4)
    assert ask(engine, "scored", TEXT[:12], prompt_logprobs=1).prompt_logprobs is not None
    assert ask(engine, "then", TEXT[:12]).metrics.cached_tokens == 8


def test_blocks_are_given_up_from_the_end_and_the_longest_unused_first():
    engine = make_engine(block_size=2, num_blocks=8, max_model_len=16, max_num_seqs=1)
    ask(engine, "old", [1] * 6, count=1)
    ask(engine, "new", [2] * 6, count=1)
    ask(engine, "old again", [1] * 6, count=1)
    ask(engine, "other", [3] * 6, count=1)  # two free blocks, and the end of what is unused longest
    assert ask(engine, "is there", [1] * 7, count=1).metrics.cached_tokens == 6
    assert ask(engine, "has lost two", [2] * 7, count=1).metrics.cached_tokens == 2


@BOTH
def test_what_a_failed_step_computed_is_not_found(executor):
    engine = make_engine(
        executor_type=executor, block_size=4, max_num_seqs=4, max_num_batched_tokens=8
    )
    params = SamplingParams(temperature=0.0, max_tokens=3)
    engine.add_request("fails", TEXT[:16], params)
    engine.step()
    engine.step()
    engine._executor.fail_next = MachineError("the device is lost")
    assert isinstance(run_all(engine)["fails"].error, MachineError)
    assert engine._pool.num_named == 0, "not even what it had computed before"
    assert ask(engine, "again", TEXT[:16]).metrics.cached_tokens == 0


def test_a_failed_request_takes_the_names_of_what_it_had_found():
    engine = make_engine(block_size=4)
    ask(engine, "good", TEXT[:12])
    engine._executor.poison_token = 7
    engine.add_request("bad", [*TEXT[:12], 7], SamplingParams(temperature=0.0))
    assert isinstance(run_all(engine)["bad"].error, DisagreementError)
    assert ask(engine, "again", TEXT[:12]).metrics.cached_tokens == 0


def test_an_abort_leaves_what_was_computed():
    engine = make_engine(block_size=4, max_num_seqs=4, max_num_batched_tokens=8)
    engine.add_request("gone", TEXT[:16], SamplingParams(temperature=0.0))
    engine.step()
    engine.abort("gone")
    engine.check()
    assert ask(engine, "again", TEXT[:16]).metrics.cached_tokens == 8


def test_a_step_on_its_way_is_not_found_yet():
    engine = make_engine(executor_type=OverlappingHash, block_size=4)
    params = SamplingParams(temperature=0.0, max_tokens=3)
    engine.add_request("first", TEXT[:9], params)
    engine.step()
    assert engine._pool.num_named == 0
    engine.add_request("second", TEXT[:9], params)
    engine.step()  # the second waits, for the first one's step has only landed at the end of this
    assert (engine.num_running, engine.num_waiting, engine._pool.num_named) == (1, 1, 2)
    outputs = run_all(engine)
    assert outputs["second"].metrics.cached_tokens == 8
    assert outputs["first"].token_ids == outputs["second"].token_ids == tuple(greedy(TEXT[:9], 3))


@pytest.mark.parametrize(("first", "second", "blocks"), [(3, 3, 6), (3, 4, 7), (2, 5, 6)])
def test_who_lost_its_blocks_waits_for_the_token_that_it_draws(first, second, blocks):
    """A step that does not even begin leaves the one before it on its way."""
    engine = make_engine(
        executor_type=OverlappingHash, num_blocks=blocks, max_model_len=12, max_num_seqs=3
    )
    params = SamplingParams(temperature=0.0, max_tokens=5)
    later = TEXT[first : first + second]
    for name, prompt in {"a": TEXT[:first], "b": later}.items():
        engine.add_request(name, prompt, params)
    scheduler, schedule = engine.scheduler, engine.scheduler.schedule

    def refuses_after_preempting(now_ms):
        batch = schedule(now_ms)
        if scheduler.preemptions == 1 and not refused:
            refused.append(batch)
            engine._executor.fail_at("start")
        return batch

    refused: list[object] = []
    scheduler.schedule = refuses_after_preempting
    outputs = run_all(engine)
    assert refused, "nobody was preempted"
    assert isinstance(outputs["a"].error, MachineError)
    assert list(outputs["b"].token_ids) == greedy(later, 5)


def test_check_notices_who_waits_in_vain_and_names_that_are_wrong():
    engine = make_engine(block_size=4, max_num_seqs=4, max_num_batched_tokens=8)
    engine.add_request("r", TEXT[:16], SamplingParams(temperature=0.0))
    engine.step()
    (sequence,) = engine.scheduler.running
    cache = engine.scheduler.cache
    cache.check([sequence])
    cache._coming[sequence.names[0]] = sequence
    with pytest.raises(GraphoptError, match="does not come"):
        cache.check([sequence])
    del cache._coming[sequence.names[0]]
    sequence.status = Status.FINISHED
    with pytest.raises(GraphoptError, match="does not come"):
        cache.check([sequence])
    sequence.names[0] = bytes(32)
    with pytest.raises(GraphoptError, match="name of another"):
        cache.check([sequence])

"""The engine against the hash model: whatever the batch, the memory and the interruptions, a
request gets the tokens that it gets alone, and the invariants hold after every step."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.errors import (
    CapacityError,
    DisagreementError,
    GraphoptError,
    MachineError,
    RequestError,
    UsageError,
)
from graphopt.runtime.outputs import Totals
from graphopt.runtime.policies import Priority
from graphopt.runtime.sampling_params import GREEDY_TEMPERATURE, LARGEST, SamplingParams

from .fakes import (
    CharDecoder,
    HashExecutor,
    greedy,
    make_engine,
    model,
    run_all,
    run_one,
)
from .simulation import simulate

GREEDY = SamplingParams(temperature=0.0, max_tokens=8)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_any_history_gives_every_request_its_own_tokens(seed):
    simulate(seed, operations=40)


def test_long_histories_preempt_share_and_refuse():
    runs = [simulate(seed, operations=150) for seed in range(18)]
    assert sum(run.steps for run in runs) > 1500
    assert sum(run.preemptions for run in runs) > 50
    assert sum(run.shared for run in runs) > 50
    assert sum(run.refused for run in runs) > 10


def test_what_failed_steps_wrote_is_never_found():
    runs = [simulate(seed, operations=120, failures=True) for seed in range(10)]
    assert sum(run.failed for run in runs) > 30
    assert sum(run.shared for run in runs) > 50


def test_the_priority_policy_keeps_the_invariants_too():
    for seed in range(6):
        simulate(seed, operations=80, policy=Priority())


@pytest.mark.slow
def test_tens_of_thousands_of_steps():
    runs = [simulate(1000 + seed, operations=400) for seed in range(60)]
    assert sum(run.steps for run in runs) > 20_000
    assert sum(run.preemptions for run in runs) > 1000


def test_greedy_tokens_are_those_of_the_model():
    engine = make_engine()
    prompts = {str(size): list(range(size)) for size in (1, 2, 3, 5, 12)}
    for name, prompt in prompts.items():
        engine.add_request(name, prompt, GREEDY)
    outputs = run_all(engine)
    for name, prompt in prompts.items():
        assert list(outputs[name].token_ids) == greedy(prompt, 8)
        assert outputs[name].finish_reason == "length"


@pytest.mark.parametrize("budget", [1, 2, 3, 7, 64])
def test_chunks_do_not_change_tokens(budget):
    prompt = [5, 3, 8, 1, 1, 12, 0, 4, 9, 2, 6]
    params = SamplingParams(temperature=0.0, max_tokens=6, prompt_logprobs=1, logprobs=1)
    alone = run_one(prompt, params)
    engine = make_engine(
        max_num_seqs=1, max_num_batched_tokens=budget, max_rows=max(1, budget // 2)
    )
    engine.add_request("r", prompt, params)
    steps = 0
    while engine.has_work:
        steps += 1
        output = engine.step()
        engine.check()
    chunked = output.finished[0]
    assert chunked.completions == alone.completions
    assert chunked.prompt_logprobs == alone.prompt_logprobs
    assert steps >= len(prompt) // budget + 5


@pytest.mark.parametrize("budget", [1, 2, 4, 11, 64])
def test_a_prompt_takes_as_many_steps_as_it_has_chunks(budget):
    engine = make_engine(max_num_seqs=1, max_num_batched_tokens=budget)
    engine.add_request("r", [1] * 11, SamplingParams(temperature=0.0, max_tokens=3))
    steps = 0
    while engine.has_work:
        engine.step()
        steps += 1
    assert steps == -(-11 // budget) + 2


def test_preemption_happens_and_does_not_change_tokens():
    engine = make_engine(num_blocks=8, max_model_len=16, max_num_seqs=4)
    prompts = {str(n): [n, n + 1, n + 2] for n in range(4)}
    for name, prompt in prompts.items():
        engine.add_request(name, prompt, SamplingParams(temperature=0.0, max_tokens=13))
    outputs = run_all(engine)
    assert sum(output.metrics.preemptions for output in outputs.values()) > 0
    assert outputs["0"].metrics.preemptions == 0, "the oldest is never preempted"
    for name, prompt in prompts.items():
        assert list(outputs[name].token_ids) == greedy(prompt, 13)


def test_samples_share_the_blocks_of_the_prompt():
    engine = make_engine(block_size=2)
    prompt = [1, 2, 3, 4, 5]
    params = SamplingParams(temperature=1.0, n=3, max_tokens=4, seed=5)
    engine.add_request("r", prompt, params)
    engine.step()  # the first sample computes the prompt; the others wait for it
    assert (engine.num_running, engine.num_waiting) == (1, 2)
    engine.step()
    engine.check()
    tables = [sequence.table.tolist() for sequence in engine.scheduler.running]
    assert tables[0][:2] == tables[1][:2] == tables[2][:2]
    assert len({table[2] for table in tables}) == 3
    assert [engine._pool.references(block) for block in tables[0][:2]] == [3, 3]
    output = run_all(engine)["r"]
    assert output.metrics.cached_tokens == 0, "the first sample computed the prompt"
    assert engine.totals.prompt_tokens == 5 + 1 + 1
    assert len({completion.token_ids for completion in output.completions}) > 1


def test_a_prompt_that_ends_with_a_block_leaves_that_block_to_compute():
    engine = make_engine(block_size=2)
    engine.add_request("r", [1, 2, 3, 4], SamplingParams(temperature=0.0, n=2, max_tokens=3))
    output = run_all(engine)["r"]
    assert engine.totals.prompt_tokens == 4 + 2
    assert output.completions[0].token_ids == output.completions[1].token_ids


def test_a_seed_makes_a_request_independent_of_the_batch():
    params = SamplingParams(temperature=1.0, max_tokens=10, seed=123)
    alone = run_one([1, 2, 3], params)
    engine = make_engine(max_num_batched_tokens=9)
    for n in range(6):
        engine.add_request(f"noise {n}", [n] * (n + 1), SamplingParams(temperature=1.0, seed=n))
    engine.step()
    engine.add_request("r", [1, 2, 3], params)
    assert run_all(engine)["r"].token_ids == alone.token_ids


def test_requests_without_a_seed_differ_but_repeat_with_the_engine():
    params = SamplingParams(temperature=1.0, max_tokens=12)

    def tokens() -> list[tuple[int, ...]]:
        engine = make_engine()
        for name in "ab":
            engine.add_request(name, [1, 2], params)
        outputs = run_all(engine)
        return [outputs[name].token_ids for name in "ab"]

    first, second = tokens()
    assert first != second
    assert tokens() == [first, second]


def test_stop_tokens_end_of_sequence_and_ignoring_it():
    free = run_one([1, 2], SamplingParams(temperature=0.0, max_tokens=12))
    third = free.token_ids[2]
    expected = free.token_ids[: free.token_ids.index(third) + 1]

    stopped = run_one([1, 2], SamplingParams(temperature=0.0, max_tokens=12), eos=[third])
    assert stopped.token_ids == expected
    assert (stopped.finish_reason, stopped.completions[0].stop_reason) == ("stop", None)

    named = run_one([1, 2], SamplingParams(temperature=0.0, max_tokens=12, stop_token_ids=[third]))
    assert named.token_ids == expected
    assert (named.finish_reason, named.completions[0].stop_reason) == ("stop", third)

    ignored = run_one(
        [1, 2], SamplingParams(temperature=0.0, max_tokens=12, ignore_eos=True), eos=[third]
    )
    assert ignored.token_ids == free.token_ids

    waited = run_one(
        [1, 2], SamplingParams(temperature=0.0, max_tokens=12, min_tokens=5), eos=[third]
    )
    assert third not in waited.token_ids[:5]
    assert len(waited.token_ids) >= 5


def test_prompt_logprobs_are_those_of_the_model():
    prompt = [4, 4, 0, 11, 2]
    output = run_one(prompt, SamplingParams(max_tokens=0, prompt_logprobs=2))
    assert output.finish_reason == "length"
    assert output.token_ids == ()
    assert output.prompt_logprobs[0] is None
    for place, report in enumerate(output.prompt_logprobs[1:], 1):
        logits = model(prompt[:place], 13).astype(float)
        logprobs = logits - (logits.max() + _log_sum(logits - logits.max()))
        order = sorted(range(13), key=lambda token: (-logprobs[token], token))
        assert report.token_id == prompt[place]
        assert report.logprob == pytest.approx(logprobs[prompt[place]], abs=1e-6)
        assert report.rank == order.index(prompt[place]) + 1
        assert [token for token, _ in report.top] == order[:2]
        assert report.top[0][1] == pytest.approx(logprobs[order[0]], abs=1e-6)


def _log_sum(values) -> float:
    import numpy as np

    return float(np.log(np.exp(values).sum()))


def test_scoring_one_token_gives_nothing_but_finishes():
    output = run_one([3], SamplingParams(max_tokens=0, prompt_logprobs=0))
    assert output.prompt_logprobs == (None,)


def test_a_request_that_can_never_fit_is_refused_with_the_numbers():
    engine = make_engine(max_model_len=10, num_blocks=64)
    with pytest.raises(CapacityError, match="context") as caught:
        engine.add_request("r", [1] * 10, GREEDY)
    assert "10 prompt tokens" in str(caught.value)
    assert "10 tokens (max_model_len)" in str(caught.value)
    engine = make_engine(max_model_len=64, num_blocks=3, block_size=2)
    with pytest.raises(CapacityError, match="KV memory") as caught:
        engine.add_request("r", [1] * 6, GREEDY)
    assert "6 prompt tokens need 4 blocks of 2" in str(caught.value)
    assert "3 blocks, 6 tokens" in str(caught.value)
    assert not engine.has_work
    engine.add_request("r", [1] * 5, GREEDY)
    assert run_all(engine)["r"].finish_reason == "length"


def test_the_context_caps_the_output():
    output = run_one([1, 2, 3], SamplingParams(temperature=0.0, max_tokens=None), max_model_len=9)
    assert len(output.token_ids) == 6
    assert output.finish_reason == "length"
    output = run_one([1, 2, 3], SamplingParams(temperature=0.0, max_tokens=50), num_blocks=4)
    assert len(output.token_ids) == 5


def test_an_executor_error_ends_its_step_and_nothing_else():
    engine = make_engine(max_num_seqs=2)
    for first, name in enumerate("abc", 1):
        engine.add_request(name, [first, 2, 3], GREEDY)
    engine.step()
    engine._executor.fail_next = RuntimeError("boom")
    output = engine.step()
    engine.check()
    assert {done.request_id for done in output.finished} == {"a", "b"}
    for first, done in enumerate(output.finished, 1):
        assert isinstance(done.error, MachineError)
        assert "RuntimeError: boom" in str(done.error)
        assert done.finish_reason == "abort"
        assert done.token_ids == tuple(greedy([first, 2, 3], 1))
    assert all(delta.error is not None for delta in output.deltas)
    assert list(run_all(engine)["c"].token_ids) == greedy([3, 2, 3], 8)
    assert engine.kv_usage == 0.0


def test_a_typed_error_of_the_executor_is_kept():
    engine = make_engine()
    engine.add_request("r", [1], GREEDY)
    engine._executor.fail_next = DisagreementError("no")
    assert str(engine.step().finished[0].error) == "no"


def test_a_wrong_number_of_rows_is_an_error_of_the_step():
    engine = make_engine()
    engine.add_request("r", [1], GREEDY)
    run = engine._executor.run

    def short(inputs, sampling):
        sampled = run(inputs, sampling)
        return type(sampled)(sampled.token_ids[:0])

    engine._executor.run = short
    assert "wrong number of rows" in str(engine.step().finished[0].error)
    engine.check()


def test_logits_that_are_not_numbers_end_one_request_only():
    engine = make_engine()
    engine._executor.poison_token = 12
    engine.add_request("bad", [1, 12], GREEDY)
    engine.add_request("good", [1, 2], SamplingParams(temperature=0.0, max_tokens=1))
    outputs = run_all(engine)
    assert isinstance(outputs["bad"].error, DisagreementError)
    assert "request bad, token 2" in str(outputs["bad"].error)
    assert list(outputs["good"].token_ids) == greedy([1, 2], 1)


def test_one_sample_with_bad_logits_ends_its_request_and_no_other():
    params = SamplingParams(temperature=2.0, n=3, seed=0, max_tokens=6, ignore_eos=True)
    whole = run_one([1, 2], params)
    samples = [one.token_ids for one in whole.completions]
    poison = next(token for token in samples[0] if token not in (*samples[1], *samples[2], 1, 2))
    engine = make_engine()
    engine._executor.poison_token = poison
    engine.add_request("bad", [1, 2], params)
    engine.add_request("good", [3], SamplingParams(temperature=0.0, max_tokens=2))
    outputs = run_all(engine)
    assert isinstance(outputs["bad"].error, DisagreementError)
    assert outputs["good"].error is None
    reached = samples[0].index(poison) + 1
    for one, complete in zip(outputs["bad"].completions, samples, strict=True):
        assert one.finish_reason == "abort"
        assert one.token_ids == complete[:reached]
    assert engine.kv_usage == 0.0


def test_masking_everything_is_an_error_of_the_request():
    params = SamplingParams(
        temperature=0.0, min_tokens=2, max_tokens=4, stop_token_ids=[5], allowed_token_ids=[5]
    )
    output = run_one([1], params)
    assert isinstance(output.error, RequestError)
    assert "no token is left" in str(output.error)


def test_abort_gives_what_there_is_and_frees_the_blocks():
    engine = make_engine(decoder=CharDecoder())
    engine.add_request(
        "r", [1, 2], SamplingParams(temperature=0.0, max_tokens=50, n=2), prompt="bc"
    )
    for _ in range(5):
        engine.step()
    output = engine.abort("r")
    engine.check()
    assert output.finish_reason == "abort"
    assert output.prompt == "bc"
    assert list(output.token_ids) == greedy([1, 2], 5)
    assert output.text == CharDecoder().decode(list(output.token_ids))
    assert engine.kv_usage == 0.0
    assert not engine.has_work
    assert engine.abort("r") is None


def test_text_streams_and_stop_strings_end_it():
    decoder = CharDecoder()
    whole = decoder.decode(greedy([1, 2], 12))
    stop = whole[5:8]
    assert whole.find(stop) == 5
    engine = make_engine(decoder=decoder)
    params = SamplingParams(temperature=0.0, max_tokens=12, stop=stop)
    engine.add_request("r", [1, 2], params)
    deltas = []
    while engine.has_work:
        output = engine.step()
        deltas.extend(output.deltas)
    done = output.finished[0]
    assert done.text == "".join(delta.text for delta in deltas) == whole[:5]
    assert done.completions[0].stop_reason == stop
    assert len(done.token_ids) == 8
    assert deltas[-1].finish_reason == "stop"


@pytest.mark.parametrize(
    ("prompt", "params", "message"),
    [
        ([], GREEDY, "empty"),
        ([13], GREEDY, "does not have"),
        ([-1], GREEDY, "does not have"),
        (["a"], GREEDY, "else than token ids"),
        ([[1], [2]], GREEDY, "else than token ids"),
        ([1], SamplingParams(stop="x"), "need a tokenizer"),
        ([1], SamplingParams(stop_token_ids=[13]), "stop_token_ids"),
        ([1], SamplingParams(logit_bias={99: 1.0}), "logit_bias"),
        ([1], SamplingParams(allowed_token_ids=[1, 20]), "allowed_token_ids"),
    ],
)
def test_requests_that_make_no_sense_are_refused(prompt, params, message):
    engine = make_engine()
    with pytest.raises(RequestError, match=message):
        engine.add_request("r", prompt, params)
    assert not engine.has_work


def test_the_largest_parameters_leave_finite_numbers():
    for sign in (1.0, -1.0):
        params = SamplingParams(
            temperature=GREEDY_TEMPERATURE,
            repetition_penalty=LARGEST**sign,
            presence_penalty=sign * LARGEST,
            frequency_penalty=sign * LARGEST,
            logit_bias={token: sign * LARGEST for token in range(6)},
            max_tokens=5,
            seed=1,
        )
        output = run_one([1, 2], params)
        assert output.error is None
        assert len(output.token_ids) == 5


def test_ids_are_unique_among_the_unfinished():
    engine = make_engine()
    engine.add_request("r", [1], GREEDY)
    with pytest.raises(RequestError, match="in use"):
        engine.add_request("r", [1], GREEDY)
    run_all(engine)
    engine.add_request("r", [1], GREEDY)


def test_metrics_tell_the_times():
    times = iter(range(100))
    engine = make_engine(clock=lambda: float(next(times)))
    engine.add_request("r", [1, 2], SamplingParams(temperature=0.0, max_tokens=2))
    metrics = run_all(engine)["r"].metrics
    assert metrics.arrival_s < metrics.started_s < metrics.first_token_s < metrics.finished_s


def test_a_request_that_never_ran_never_started():
    engine = make_engine()
    engine.add_request("r", [1, 2], GREEDY)
    assert engine.abort("r").metrics.started_s is None


def test_totals_count_what_was_done():
    engine = make_engine(num_blocks=8, max_model_len=16, max_num_seqs=4)
    assert engine.totals == Totals()
    for name in "abcd":
        engine.add_request(name, [1, 2, 3], SamplingParams(temperature=0.0, max_tokens=13))
    steps = 0
    while engine.has_work:
        engine.step()
        steps += 1
    totals = engine.totals
    assert (totals.steps, totals.generated_tokens) == (steps, 4 * 13)
    assert totals.preemptions > 0
    assert totals.prompt_tokens >= 4 * 3


def test_check_notices_what_is_broken():
    def engine():
        made = make_engine()
        made.add_request("r", [1, 2, 3], GREEDY)
        made.step()
        made.check()
        return made

    broken = engine()
    broken._pool.allocate(1)
    with pytest.raises(GraphoptError, match="reference count"):
        broken.check()
    broken = engine()
    broken.scheduler.running.clear()
    with pytest.raises(GraphoptError, match="reference count"):
        broken.check()
    broken = engine()
    broken.scheduler.running[0].table.clear()
    with pytest.raises(GraphoptError):
        broken.check()
    broken = engine()
    broken._live.clear()
    with pytest.raises(GraphoptError, match="lost"):
        broken.check()


def test_more_rows_than_the_executor_has_are_refused():
    from graphopt.runtime.engine import Engine, EngineConfig
    from graphopt.runtime.scheduler import SchedulerLimits

    with pytest.raises(UsageError, match="more rows"):
        Engine(HashExecutor(max_rows=4), EngineConfig(SchedulerLimits(4, 4, 5, 9), 4))


def test_close_drops_requests_and_closes_the_executor():
    engine = make_engine()
    engine.add_request("r", [1], GREEDY)
    engine.close()
    assert not engine.has_work
    assert engine._executor.closed
    assert engine.step().num_tokens == 0

"""Steps that set out before the one ahead has landed give each request the tokens it gets alone."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.errors import MachineError
from graphopt.runtime.sampling_params import SamplingParams

from .fakes import OverlappingHash, greedy, make_engine, run_all, run_one
from .simulation import simulate

GREEDY = SamplingParams(temperature=0.0, max_tokens=8)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_any_history_of_overlapping_steps_gives_the_same(seed):
    simulate(seed, operations=40, executor_type=OverlappingHash)


def test_long_histories_of_overlapping_steps():
    runs = [simulate(seed, operations=150, executor_type=OverlappingHash) for seed in range(18)]
    assert sum(run.preemptions for run in runs) > 50
    assert sum(run.shared for run in runs) > 50
    assert {run.engine._executor.most_waiting for run in runs} == {2}
    assert any(run.wasted for run in runs), "no step was computed for a sequence that had ended"


def test_a_failing_step_among_overlapping_ones_ends_its_own_requests():
    engine = make_engine(executor_type=OverlappingHash)
    engine.add_request("first", [1, 2], GREEDY)
    engine.step()
    engine.add_request("second", [3, 4], GREEDY)
    engine.step()  # the first step has landed, and one with both is on its way
    engine._executor.fail_next = MachineError("the device is lost")
    outputs = run_all(engine)
    assert isinstance(outputs["first"].error, MachineError)
    assert isinstance(outputs["second"].error, MachineError)
    engine.add_request("third", [5], GREEDY)
    assert list(run_all(engine)["third"].token_ids) == greedy([5], 8)


def test_what_failed_steps_wrote_is_never_found_among_overlapping_ones():
    runs = [
        simulate(seed, operations=120, executor_type=OverlappingHash, failures=True)
        for seed in range(10)
    ]
    assert sum(run.failed for run in runs) > 30
    assert sum(run.shared for run in runs) > 50


def test_an_id_may_be_used_again_while_an_ended_request_has_a_step_on_its_way():
    engine = make_engine(executor_type=OverlappingHash)
    engine.add_request("r", [1, 2], GREEDY)
    engine.step()
    engine.step()
    assert engine.abort("r").finish_reason == "abort"
    engine.add_request("r", [7, 8, 9], GREEDY)
    assert list(run_all(engine)["r"].token_ids) == greedy([7, 8, 9], 8)


def test_steps_with_penalties_wait_for_their_tokens():
    params = SamplingParams(temperature=0.0, max_tokens=9, repetition_penalty=1.5)
    engine = make_engine(executor_type=OverlappingHash)
    engine.add_request("r", [1, 2], params)
    assert run_all(engine)["r"].token_ids == run_one([1, 2], params).token_ids
    assert engine._executor.most_waiting == 1


@pytest.mark.slow
def test_tens_of_thousands_of_overlapping_steps():
    runs = [
        simulate(2000 + seed, operations=400, executor_type=OverlappingHash) for seed in range(60)
    ]
    assert sum(run.steps for run in runs) > 20_000

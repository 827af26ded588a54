"""The shapes of results."""

from graphopt.errors import MachineError
from graphopt.runtime.outputs import Completion, Delta, RequestMetrics, RequestOutput, TokenLogprobs


def test_a_request_shows_its_first_sample():
    report = (TokenLogprobs(3, -0.1, 1, ((3, -0.1),)),)
    first = Completion(0, (3,), "x", report, "stop")
    output = RequestOutput(
        "r", "p", (1, 2), (first, Completion(1)), None, RequestMetrics(0.0, 1.0, 2.0)
    )
    assert output.text == "x"
    assert output.token_ids == (3,)
    assert output.logprobs == report
    assert output.finish_reason == "stop"


def test_a_delta_can_become_the_last_one():
    error = MachineError("broken")
    last = Delta("r", 1, "x", (3,)).ended("abort", error)
    assert (last.text, last.finish_reason, last.error) == ("x", "abort", error)

"""Orders."""

import numpy as np
import pytest

from graphopt.errors import UsageError
from graphopt.runtime.policies import Fcfs, Priority, make_policy
from graphopt.runtime.sampling_params import SamplingParams
from graphopt.runtime.sequence import Request, Sequence


def make(ticket: int, priority: int = 0) -> Sequence:
    request = Request("r", np.array([1]), None, SamplingParams(), 0, 0.0, priority)
    return Sequence(request, 0, ticket, 4)


def test_first_come_first_served():
    running, waiting = [make(3), make(1)], [make(0), make(5)]
    assert [one.ticket for one in Fcfs().order(waiting, running, 0.0)] == [1, 3, 0, 5]


def test_first_come_first_served_does_not_look_at_all_who_wait():
    def endless():
        yield make(7)
        raise AssertionError("looked further than asked")

    order = iter(Fcfs().order(endless(), [make(1)], 0.0))
    assert [next(order).ticket, next(order).ticket] == [1, 7]


def test_urgent_first_then_by_arrival():
    running, waiting = [make(1, 5), make(4, 0)], [make(2, 0), make(3, -1)]
    assert [one.ticket for one in Priority().order(waiting, running, 0.0)] == [3, 2, 4, 1]


def test_policies_by_name():
    assert isinstance(make_policy("fcfs"), Fcfs)
    assert isinstance(make_policy("priority"), Priority)
    with pytest.raises(UsageError, match="unknown") as caught:
        make_policy("lottery")
    assert caught.value.expected == "fcfs or priority"

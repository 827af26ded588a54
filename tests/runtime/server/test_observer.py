"""Records of requests: what routes say, and what is filled in for them."""

from __future__ import annotations

import pytest

from graphopt.runtime.outputs import RequestMetrics
from graphopt.runtime.server.observer import Observer, Record, request_id_of
from graphopt.runtime.server.wire import Ended, Opened, Part, State

MODEL = Opened(100, 64, 4, 16, 32, "all of it")


class Time:
    """A clock that goes on when it is told."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Heard:
    """A listener that keeps what it hears."""

    def __init__(self) -> None:
        self.events: list[tuple[str, object]] = []

    def arrived(self, record: Record) -> None:
        self.events.append(("arrived", record))

    def ended(self, record: Record) -> None:
        self.events.append(("ended", record))

    def loaded(self, model: Opened) -> None:
        self.events.append(("loaded", model))

    def gone(self) -> None:
        self.events.append(("gone", None))


class Told:
    """A pulse that keeps what it is told."""

    def __init__(self) -> None:
        self.firsts: list[float] = []
        self.gaps: list[float] = []
        self.states: list[State] = []

    def first_token(self, seconds: float) -> None:
        self.firsts.append(seconds)

    def between_tokens(self, seconds: float) -> None:
        self.gaps.append(seconds)

    def stepped(self, state: State) -> None:
        self.states.append(state)


@pytest.mark.parametrize("given", ["a", "A-b_c.9:7", "x" * 64])
def test_a_plain_id_is_kept(given: str) -> None:
    assert request_id_of(given) == given


@pytest.mark.parametrize("given", [None, "", "x" * 65, "a b", "a\nb", "é", "<script>", "a\r\n"])
def test_any_other_id_is_replaced(given: str | None) -> None:
    made = request_id_of(given)
    assert made != given
    assert len(made) == 32
    assert made != request_id_of(given)


def test_what_a_request_says() -> None:
    clock, told, heard = Time(), Told(), Heard()
    observer = Observer([heard], pulse=told, clock=clock)
    record = observer.arrived("POST", "mine")
    clock.now = 101.0
    generation = record.asked(7, {"max_tokens": 4}, "text")
    clock.now = 101.5
    generation.parts([Part("r", 0, (1,))])
    clock.now = 101.75
    generation.parts([Part("r", 1, (3,)), Part("r", 0, (2, 9))])
    clock.now = 102.0
    generation.parts([Part("r", 0, (), None, "stop")])  # no token: no time between tokens
    ended = Ended("r", RequestMetrics(1.0, 2.0, 3.0))
    generation.finished(["stop", "length"], ended)
    clock.now = 103.0
    generation.finished(["abort"])
    observer.ended(record)

    assert (record.id, record.method, record.arrived_s) == ("mine", "POST", 100.0)
    assert (generation.asked_s, generation.first_token_s) == (101.0, 101.5)
    assert (generation.last_token_s, generation.finished_s) == (101.75, 102.0)
    assert generation.completion_tokens == 4
    assert generation.reasons == ("stop", "length")
    assert generation.ended is ended
    assert (told.firsts, told.gaps) == ([1.5], [0.25])
    assert record.finished_s == 103.0
    assert heard.events == [("arrived", record), ("ended", record)]


@pytest.mark.parametrize(("gone", "reason"), [(True, "abort"), (False, "error")])
def test_what_a_route_left_unsaid_is_filled_in(gone: bool, reason: str) -> None:
    observer = Observer()
    record = observer.arrived("POST")
    done, left = record.asked(1), record.asked(2)
    done.finished(["length"])
    if gone:
        record.disconnected()
    observer.ended(record)
    assert done.reasons == ("length",)
    assert left.reasons == (reason,)
    assert left.finished_s is not None


def test_reasons_are_of_a_known_set() -> None:
    generation = Observer().arrived("POST").asked(1)
    generation.finished(["what the engine made up"])
    assert generation.reasons == ("error",)


def test_the_first_status_stands() -> None:
    record = Observer().arrived("POST")
    record.refused(429, "too many")
    assert (record.status, record.why) == (429, "too many")
    record.refused(500, "then it broke")
    assert (record.status, record.why) == (429, "then it broke")


def test_the_engine_comes_and_goes() -> None:
    heard, told = Heard(), Told()
    observer = Observer([heard], pulse=told)
    observer.loaded(MODEL)
    observer.stepped(State(steps=4))
    observer.gone()
    assert told.states == [State(steps=4)]
    assert heard.events == [("loaded", MODEL), ("gone", None)]


def test_without_listeners_nothing_happens() -> None:
    observer = Observer()
    observer.loaded(MODEL)
    observer.stepped(State())
    record = observer.arrived("GET")
    record.asked(1).parts([Part("r", 0, (1,)), Part("r", 0, (1,))])
    observer.ended(record)
    observer.gone()
    assert record.generations[0].completion_tokens == 2

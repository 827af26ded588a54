"""The engine's side of the wire, over the hash model."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from graphopt.embedding import Embedding
from graphopt.errors import DeviceLostError, GraphoptError
from graphopt.runtime.engine import Engine
from graphopt.runtime.server.engine_loop import EngineLoop
from graphopt.runtime.server.wire import (
    Abort,
    Close,
    Embed,
    FromEngine,
    Inbox,
    Open,
    Progress,
    Submit,
    ToEngine,
    encode,
)

from ..fakes import HashExecutor, HashRows, OverlappingHash, OverlappingRows, greedy, make_engine
from ..test_embeddings import CHUNKED, WHOLE, engine_of, texts_of, vector

GREEDY = {"temperature": 0.0, "max_tokens": 6, "ignore_eos": True}


class Peer:
    """The other end of the socket, and the loop in a thread."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.sock, self.theirs = socket.socketpair()
        self.sock.settimeout(20)
        self.inbox = Inbox(FromEngine)
        self.seen: list[Progress] = []
        self.failure: Exception | None = None
        self.thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        try:
            with self.theirs:
                EngineLoop(self.engine, 64, self.theirs, Inbox(ToEngine)).run()
        except GraphoptError as error:
            self.failure = error

    def say(self, *messages: ToEngine) -> None:
        self.sock.sendall(b"".join(encode(one) for one in messages))

    def until_ended(self, *names: str) -> dict[str, Any]:
        """Read until these requests have ended; how they did."""
        ended = {one.id: one for progress in self.seen for one in progress.ended}
        while not set(names) <= ended.keys():
            for progress in self.inbox.push(self.sock.recv(1 << 16)):
                self.seen.append(progress)
                ended |= {one.id: one for one in progress.ended}
        return ended

    def tokens(self, name: str) -> list[int]:
        return [
            token
            for progress in self.seen
            for part in progress.parts
            if part.id == name
            for token in part.token_ids
        ]

    def close(self) -> None:
        self.sock.close()
        self.thread.join(20)
        assert not self.thread.is_alive()


@pytest.fixture(params=[HashExecutor, OverlappingHash])
def peer(request: pytest.FixtureRequest) -> Iterator[Peer]:
    found = Peer(make_engine(executor_type=request.param))
    yield found
    if not found.thread.ident:
        found.thread.start()
    found.close()


def test_what_waits_together_starts_together(peer: Peer) -> None:
    names = [f"r{number}" for number in range(5)]
    peer.say(*(Submit(name, [number + 1], GREEDY) for number, name in enumerate(names)))
    peer.thread.start()
    ended = peer.until_ended(*names)
    assert all(ended[name].error is None for name in names)
    for number, name in enumerate(names):
        assert peer.tokens(name) == greedy([number + 1], 6)
    first = next(progress for progress in peer.seen if progress.parts)
    assert {part.id for part in first.parts} == set(names)
    last = peer.seen[-1].state
    assert (last.running, last.waiting, last.used_blocks) == (0, 0, 0)
    assert last.generated_tokens == 30
    assert last.steps <= 7


def test_parts_carry_reasons_and_log_probabilities(peer: Peer) -> None:
    peer.thread.start()
    wanted = greedy([4, 2], 6)
    stop = wanted[2]
    params = {
        "temperature": 0.0,
        "max_tokens": 6,
        "stop_token_ids": [stop],
        "logprobs": 2,
        "prompt_logprobs": 0,
        "logit_bias": {12: -1e9},
    }
    peer.say(Submit("one", [4, 2], params))
    ended = peer.until_ended("one")["one"]
    parts = [part for progress in peer.seen for part in progress.parts]
    assert parts[-1].finish_reason == "stop"
    assert parts[-1].stop_reason == parts[-1].token_ids[0]
    assert all(len(part.logprobs or ()) == len(part.token_ids) for part in parts)
    assert ended.prompt_logprobs[0] is None
    assert ended.prompt_logprobs[1].token_id == 2
    assert ended.metrics.first_token_s >= ended.metrics.arrival_s


@pytest.mark.parametrize(
    ("prompt", "params", "expected"),
    [
        ([1], {"temperature": -1}, "temperature is not valid"),
        ([1], {"nonsense": 1}, "unknown"),
        ([], {}, "prompt"),
        ([99], {}, "token"),
        ([1] * 100, {}, "fit|context|long"),
        ([1], {"stop": ["a"]}, "tokenizer"),
        ([1], {"max_tokens": "many"}, "max_tokens is not valid"),
        ([2**63 + 5], {}, "token"),
    ],
)
def test_a_broken_request_ends_alone(
    peer: Peer, prompt: list[int], params: dict[str, Any], expected: str
) -> None:
    peer.thread.start()
    peer.say(
        Submit("good", [1, 2], GREEDY), Submit("bad", prompt, params), Submit("twin", [3], GREEDY)
    )
    ended = peer.until_ended("good", "bad", "twin")
    with pytest.raises(GraphoptError, match=expected):
        raise ended["bad"].error.error()
    assert peer.tokens("good") == greedy([1, 2], 6)
    assert peer.tokens("twin") == greedy([3], 6)
    assert ended["good"].error is ended["twin"].error is None
    told = next(one for one in peer.seen if any(end.id == "bad" for end in one.ended))
    assert not told.parts, "its end does not wait for a step"


def test_an_id_in_use_is_refused_and_its_owner_goes_on(peer: Peer) -> None:
    peer.say(Submit("one", [1], GREEDY), Submit("one", [2], GREEDY))
    peer.thread.start()
    peer.until_ended("one")
    peer.say(Submit("two", [1], GREEDY))
    peer.until_ended("two")
    errors = [one.error for progress in peer.seen for one in progress.ended if one.id == "one"]
    assert sum(error is None for error in errors) == 1
    assert peer.tokens("one") == greedy([1], 6)


def test_an_abort_ends_a_request_and_frees_its_blocks(peer: Peer) -> None:
    peer.thread.start()
    long = {"temperature": 0.0, "max_tokens": 60, "ignore_eos": True}
    peer.say(Submit("kept", [1], long), Submit("gone", [2], long), Abort("gone"), Abort("never"))
    ended = peer.until_ended("kept", "gone")
    assert ended["gone"].error is None
    assert len(peer.tokens("gone")) < 60
    assert peer.tokens("kept") == greedy([1], 60)
    assert peer.seen[-1].state.used_blocks == 0


def test_an_abort_of_the_only_request_is_answered_though_no_step_follows(peer: Peer) -> None:
    peer.say(Submit("one", [1], GREEDY), Abort("one"))
    peer.thread.start()
    assert peer.until_ended("one")["one"].error is None


def test_an_error_inside_a_step_ends_its_requests_and_the_engine_goes_on(peer: Peer) -> None:
    peer.engine._executor.fail_next = RuntimeError("device on fire")
    peer.say(Submit("one", [1], GREEDY), Submit("two", [2], GREEDY))
    peer.thread.start()
    ended = peer.until_ended("one", "two")
    assert "on fire" in ended["one"].error.got
    assert ended["two"].error.kind == "MachineError"
    peer.say(Submit("three", [3], GREEDY))
    assert peer.until_ended("three")["three"].error is None
    assert peer.tokens("three") == greedy([3], 6)


def test_a_reader_that_sleeps_loses_nothing(peer: Peer) -> None:
    peer.theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    peer.thread.start()
    params = {"temperature": 0.0, "max_tokens": 60, "ignore_eos": True, "logprobs": 12}
    peer.say(*(Submit(f"r{number}", [number], params) for number in range(8)))
    time.sleep(0.5)
    assert peer.engine.has_work, "the steps waited for the reader"
    peer.until_ended(*(f"r{number}" for number in range(8)))
    for number in range(8):
        assert peer.tokens(f"r{number}") == greedy([number], 60)


@pytest.mark.parametrize("working", [False, True])
def test_it_leaves_with_its_peer(peer: Peer, working: bool) -> None:
    peer.thread.start()
    if working:
        peer.say(Submit("one", [1], {"max_tokens": 60, "ignore_eos": True}))
    peer.close()
    assert peer.failure is None


def test_it_leaves_when_told(peer: Peer) -> None:
    peer.say(Submit("one", [1], GREEDY), Close())
    peer.thread.start()
    peer.thread.join(20)
    assert not peer.thread.is_alive()


def test_a_second_model_is_refused(peer: Peer) -> None:
    peer.say(Open("other.gopt"))
    peer.thread.start()
    peer.thread.join(20)
    assert "loaded already" in str(peer.failure)


@pytest.mark.parametrize("kind", [HashRows, OverlappingRows])
@pytest.mark.parametrize("embedding", [WHOLE, CHUNKED], ids=["whole", "in chunks"])
def test_texts_come_back_as_vectors(embedding: Embedding, kind: type[HashRows]) -> None:
    peer = Peer(engine_of(embedding, kind=kind))
    texts = texts_of(40, 12, seed=1)
    peer.say(*(Embed(f"r{number}", text, number) for number, text in enumerate(texts)))
    peer.say(Embed("bad", [99]), Embed("empty", []), Submit("words", [1], GREEDY), Abort("r39"))
    peer.thread.start()
    ended = peer.until_ended(*(f"r{number}" for number in range(40)), "bad", "empty", "words")
    for number, text in enumerate(texts[:39]):
        found = np.frombuffer(ended[f"r{number}"].vector, "<f4")
        np.testing.assert_array_equal(found, vector(text, embedding))
    assert (ended["r39"].vector, ended["r39"].error) == (None, None)
    assert "token" in ended["bad"].error.what
    assert "/v1/embeddings" in ended["words"].error.next
    assert not any(progress.parts for progress in peer.seen)
    assert peer.seen[-1].state.used_blocks == 0
    peer.close()


def test_a_model_that_generates_embeds_nothing(peer: Peer) -> None:
    peer.thread.start()
    peer.say(Embed("text", [1, 2]), Submit("good", [1, 2], GREEDY))
    ended = peer.until_ended("text", "good")
    assert "--task embed" in ended["text"].error.next
    assert peer.tokens("good") == greedy([1, 2], 6)


class LosingItsDevice(HashExecutor):
    """A model whose second step hangs the device."""

    steps = 0

    def run(self, *given: Any) -> Any:
        self.steps += 1
        if self.steps > 1:
            raise DeviceLostError("a step does not end", where="p1")
        return super().run(*given)


def test_a_lost_device_ends_the_loop_once_its_requests_were_told() -> None:
    peer = Peer(make_engine(executor_type=LosingItsDevice))
    peer.say(Submit("a", [1, 2, 3], GREEDY), Submit("b", [4], GREEDY))
    peer.thread.start()
    ended = peer.until_ended("a", "b")
    assert [ended[name].error.kind for name in "ab"] == ["DeviceLostError"] * 2
    peer.close()
    assert isinstance(peer.failure, DeviceLostError)

"""A peer's process answers, fails with its own words, and ends."""

from __future__ import annotations

import sys
from pathlib import Path

import psutil
import pytest

from benchmarks.peers.catalogue import Peer
from benchmarks.peers.client import Client, PeerError


def peer(engine: str = "onnxruntime") -> Peer:
    return Peer("it", "bf16", engine, Path(sys.executable), Path("no-such-model"))


def test_questions_and_answers() -> None:
    with Client(peer(), threads=1, sequences=1, context=8) as client:
        assert client.ask("peak")["peak_bytes"] > 1e6
        client.send("peak")
        client.send("dance")
        assert client.receive()["peak_bytes"] > 1e6
        with pytest.raises(PeerError, match="unknown request"):
            client.receive()
        assert client.cpu_s() > 0
        number = client._process.pid
    assert not psutil.pid_exists(number)
    assert client.cpu_s() == 0
    client.close()


def test_what_the_engine_lacks_is_told() -> None:
    with (
        Client(peer("graphopt"), threads=1, sequences=1, context=8) as client,
        pytest.raises(PeerError, match="no-such-model"),
    ):
        client.ask("load")


def test_a_process_that_ends_leaves_its_last_words() -> None:
    with (
        Client(peer("nobody"), threads=1, sequences=1, context=8) as client,
        pytest.raises(PeerError, match=r"ended with 2: .*nobody"),
    ):
        client.ask("load")


def test_a_process_that_does_not_answer_is_ended() -> None:
    with (
        Client(peer(), threads=1, sequences=1, context=8, timeout_s=0.0) as client,
        pytest.raises(PeerError, match="no answer"),
    ):
        client.ask("peak")

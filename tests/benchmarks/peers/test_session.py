"""A session keeps who takes part apart from who does not, with the reasons."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.peers import session as sessions
from benchmarks.peers.catalogue import Peer
from benchmarks.peers.client import PeerError
from benchmarks.peers.rounds import Timing
from benchmarks.peers.session import (
    Entrant,
    Session,
    Sizes,
    add_options,
    checked,
    compiled,
    same_first_tokens,
)
from benchmarks.rates import Reading


class FakeClient:
    """Answers at once; `broken` fails when it generates."""

    def __init__(self, peer: Peer, threads: int, sequences: int, context: int) -> None:
        self.peer = peer
        self.closed = False

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        if do == "generate" and self.peer.name == "broken":
            raise PeerError("it broke")
        tokens = [[sum(prompt), 0] for prompt in arguments.get("prompts", [])]
        return {
            "load": {"import_s": 1.0, "load_s": 2.0},
            "about": {"versions": {"fake": "1"}, "weight_bytes": 100},
            "generate": {"tokens": tokens, "first_s": 0.5, "decode_s": 1.5},
            "peak": {"peak_bytes": 7},
        }[do]

    def cpu_s(self) -> float:
        return 0.0

    def close(self) -> None:
        self.closed = True


def peer(name: str, absent: str = "") -> Peer:
    return Peer(name, "int8", "hf", Path(sys.executable), Path("model"), absent)


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch) -> Session:
    monkeypatch.setattr(sessions, "Client", FakeClient)
    peers = [peer("whole"), peer("broken"), peer("missing", "it is not installed")]
    return Session(peers, Sizes(1, 2, 64))


def test_who_is_absent_or_fails_is_kept_with_the_reason(session: Session) -> None:
    assert list(session.clients) == ["whole", "broken"]
    session.warm([[1, 2], [3, 4]], 1)
    session.close()
    reasons = {name: one.absent for name, one in session.entrants.items()}
    assert reasons == {"whole": "", "broken": "it broke", "missing": "it is not installed"}
    whole = session.entrants["whole"]
    assert (whole.first_tokens, whole.peak_bytes, whole.load_s) == ([3, 7], 7, 2.0)
    assert whole.to_json()["versions"] == {"fake": "1"}


def test_contenders_time_and_bound(session: Session) -> None:
    def ask(client: Any, number: int) -> Timing:
        return Timing(client.ask("generate")["decode_s"], number)

    def bound(reading: Reading, size: int) -> float:
        return size / reading.read_bytes_s

    whole, broken = session.contenders(ask, bound)
    assert whole.run(6) == Timing(1.5, 6)
    assert whole.bound_s(Reading(50.0, {})) == 2.0
    assert broken.run(6) is None
    assert [one.engine for one in session.contenders(ask, bound)] == ["whole"]


def test_first_tokens_are_compared_with_the_first_that_has_any() -> None:
    entrants = [
        Entrant("absent", "int8", absent="not installed"),
        Entrant("one", "int8", first_tokens=[1, 2, 3]),
        Entrant("two", "int8", first_tokens=[1, 9, 3]),
    ]
    assert same_first_tokens(entrants) == {"absent": "", "one": "3/3", "two": "2/3"}


def test_what_does_not_compile_is_absent_with_our_own_words(tmp_path: Path) -> None:
    ours = Peer("graphopt", "bf16", "graphopt", Path(sys.executable), tmp_path / "out.gopt")
    found = compiled(ours, tmp_path / "nothing-here")
    assert found.absent.startswith("it was not compiled: ")
    assert "nothing-here" in found.absent


def test_options_are_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    add_options(parser)
    with pytest.raises(SystemExit):
        checked(parser, parser.parse_args(["--peers", str(tmp_path), "--shape", "tiny"]))
    assert "no checkpoint of tiny" in capsys.readouterr().err
    without = parser.parse_args([])
    without.peers = None
    with pytest.raises(SystemExit):
        checked(parser, without)
    assert "GRAPHOPT_PEERS" in capsys.readouterr().err
    place = tmp_path / "models" / "tiny" / "checkpoint" / "config.json"
    place.parent.mkdir(parents=True)
    place.touch()
    options = checked(parser, parser.parse_args(["--peers", str(tmp_path), "--shape", "tiny"]))
    assert options.peers == tmp_path

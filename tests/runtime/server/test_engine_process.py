"""The process itself: what it says when it cannot load, and when it leaves."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from graphopt.errors import ArtifactError, GraphoptError, MachineError, UsageError
from graphopt.runtime.llm import LLM
from graphopt.runtime.sampling_params import SamplingParams
from graphopt.runtime.server import engine_process
from graphopt.runtime.server.wire import (
    Close,
    Failed,
    FromEngine,
    Inbox,
    Loading,
    Open,
    Opened,
    Progress,
    Submit,
    encode,
)

from .running import SMALL

MODULE = "graphopt.runtime.server.engine_process"


def _start(theirs: socket.socket, *words: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, *(words or ("-m", MODULE)), str(theirs.fileno())]
    return subprocess.Popen(command, pass_fds=(theirs.fileno(),), stdin=subprocess.DEVNULL)


def _read(sock: socket.socket, inbox: Inbox, *, until: type) -> list[FromEngine]:
    """Messages up to one of a kind, or to the end."""
    found: list[FromEngine] = []
    sock.settimeout(60)
    while not any(isinstance(one, until) for one in found) and (data := sock.recv(1 << 16)):
        found += inbox.push(data)
    return found


def _in_thread(*messages: object) -> tuple[list[FromEngine], int]:
    """What a process says to ``messages``, run in a thread."""
    ours, theirs = socket.socketpair()
    codes: list[int] = []
    with ours:
        ours.sendall(b"".join(encode(one) for one in messages))
        with theirs:
            thread = threading.Thread(target=lambda: codes.append(engine_process.serve(theirs)))
            thread.start()
            if not messages:
                ours.shutdown(socket.SHUT_WR)
            thread.join(60)
        return _read(ours, Inbox(FromEngine), until=type(None)), codes[0]


def test_it_says_what_it_loads_and_gives_the_tokens_of_the_library(demo: Path) -> None:
    params = {"max_tokens": 12, "temperature": 0.0, "ignore_eos": True}
    with LLM(demo, **SMALL) as llm:
        expected = list(llm.generate([[5, 6, 7]], SamplingParams(**params))[0].token_ids)
        memory = str(llm.memory)
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            process = _start(theirs)
        inbox = Inbox(FromEngine)
        ours.sendall(encode(Open(str(demo), SMALL)))
        found = _read(ours, inbox, until=Opened)
        assert any(isinstance(one, Loading) and "weights" in one.what for one in found)
        assert found[-1].memory.split(";")[0] == memory.split(";")[0]
        assert found[-1].vocab_size == 4096
        for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            os.kill(process.pid, one)  # its parent's business
        ours.sendall(encode(Submit("one", [5, 6, 7], params)))
        tokens: list[int] = []
        while len(tokens) < 12:
            for progress in _read(ours, inbox, until=Progress):
                tokens += [token for part in progress.parts for token in part.token_ids]
        assert tokens == expected
        ours.sendall(encode(Close()))
        assert process.wait(20) == 0


@pytest.mark.parametrize(
    ("opening", "kind"),
    [
        (Open("/nowhere/model.gopt"), ArtifactError),
        (Open("{demo}", {"nonsense": 1}), UsageError),
        (Open("{demo}", {}, "of another artifact"), ArtifactError),
        (Open("{demo}", {"kv_cache_memory": 1}), MachineError),
        (Open("{demo}", {"max_model_len": 1 << 30}), UsageError),
        (Close(), UsageError),
    ],
)
def test_what_it_cannot_load_it_names(demo: Path, opening: object, kind: type) -> None:
    if isinstance(opening, Open):
        opening = Open(opening.artifact.format(demo=demo), opening.options, opening.seal)
    found, code = _in_thread(opening)
    assert isinstance(found[-1], Failed)
    error = found[-1].error.error()
    assert type(error) is kind
    assert code == error.exit_code > 0


def test_a_defect_is_named_too(demo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_args: object, **_more: object) -> None:
        raise KeyError("layer")

    monkeypatch.setattr(engine_process, "load_engine", broken)
    found, code = _in_thread(Open(str(demo)))
    assert found[-1].error.error().what == "unexpected KeyError: 'layer'"
    assert code == 70


def test_memory_that_cannot_be_had_is_the_machines(
    demo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def greedy(*_args: object, **_more: object) -> None:
        raise MemoryError("40 GiB")

    monkeypatch.setattr(engine_process, "load_engine", greedy)
    found, code = _in_thread(Open(str(demo)))
    assert isinstance(found[-1].error.error(), MachineError)
    assert code == MachineError.exit_code


def test_a_parent_that_leaves_without_a_word_is_no_failure() -> None:
    assert _in_thread() == ([], 0)


def test_bytes_that_are_no_message_end_it() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(b"\0\0\0\1\xc1")
        assert engine_process.serve(theirs) == GraphoptError.exit_code
        (failed,) = _read(ours, Inbox(FromEngine), until=Failed)
    assert "cannot be read" in failed.error.what


def test_it_dies_with_its_parent_even_while_it_loads(tmp_path: Path) -> None:
    """The middle process starts an engine that is stuck, says its number, and is killed."""
    stuck = (
        "import sys, time; from graphopt.runtime.server import engine_process as e; "
        "e.serve = lambda sock: time.sleep(600); print('up', flush=True); e.main(sys.argv[1:])"
    )
    middle = (
        "import subprocess, sys, socket, time; a, b = socket.socketpair(); "
        f"p = subprocess.Popen([sys.executable, '-c', {stuck!r}, str(b.fileno())], "
        "pass_fds=(b.fileno(),), start_new_session=True); print(p.pid, flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", middle], stdout=subprocess.PIPE) as parent:
        pid = int(parent.stdout.readline())
        assert parent.stdout.readline() == b"up\n"
        time.sleep(0.3)  # for the line after it
        parent.kill()
        for _ in range(100):
            if not Path(f"/proc/{pid}").exists() or _is_zombie(pid):
                return
            time.sleep(0.05)
    raise AssertionError("it outlived its parent")


def _is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True

"""Chat: a conversation is remembered, can be reset, and ctrl-C stops an answer only."""

from __future__ import annotations

import builtins
import os
import signal
import sys
from collections.abc import Callable, Iterator

import pytest
from click.testing import CliRunner, Result

from graphopt.cli.main import cli
from graphopt.embedding import Embedding
from graphopt.errors import CapacityError
from graphopt.runtime.sampling_params import SamplingParams
from tests.cli.fake_api import WORDS, FakeAPI

Run = Callable[..., Result]
TEXT = "".join(WORDS)


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def typed(monkeypatch: pytest.MonkeyPatch, fake: FakeAPI, lines: list[str | type]) -> Result:
    """Runs chat as on a terminal where ``lines`` are typed; an exception type is a key."""
    keys: Iterator[str | type] = iter(lines)

    def read(prompt: str) -> str:
        key = next(keys, EOFError)
        if isinstance(key, str):
            return key
        raise key

    def interactive(conversation: object) -> None:
        monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
        monkeypatch.setattr(builtins, "input", read)
        original(conversation)  # type: ignore[arg-type]

    from graphopt.cli import conversation

    original = conversation.converse
    monkeypatch.setattr(conversation, "converse", interactive)
    return CliRunner().invoke(cli, ["chat", "m"])


def test_piped_lines_are_messages(run: Run, fake: FakeAPI) -> None:
    result = run("chat", "m", "--system", "Be brief.", stdin="Hello\n\n Why? \n")
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{TEXT}\n{TEXT}\n"
    assert result.stderr == ""
    system = {"role": "system", "content": "Be brief."}
    assert fake.used.prompts == [
        [system, user("Hello")],
        [system, user("Hello"), assistant(TEXT), user("Why?")],
    ]
    assert fake.used.params == SamplingParams(max_tokens=None, temperature=0.0)
    assert fake.used.closed


def test_reset_and_exit(run: Run, fake: FakeAPI) -> None:
    run("chat", "m", stdin="one\n/reset\ntwo\n/exit\nthree\n")
    assert fake.used.prompts == [[user("one")], [user("two")]]


def test_a_model_that_embeds_is_refused_before_the_first_message(run: Run, fake: FakeAPI) -> None:
    fake.embedding = Embedding(8, "mean", normalize=True, whole=True)
    result = run("chat", "m", stdin="hello\n")
    assert result.exit_code == 7
    assert "graphopt embed" in result.stderr
    assert fake.used.prompts == []


def test_options(run: Run, fake: FakeAPI) -> None:
    run("chat", "m", "--max-tokens", 5, "--temperature", 0.5, stdin="one\n")
    assert fake.used.params == SamplingParams(max_tokens=5, temperature=0.5)


def test_a_refused_request_ends_a_pipe(run: Run, fake: FakeAPI) -> None:
    fake.request_error = CapacityError("the request can never fit")
    result = run("chat", "m", stdin="one\ntwo\n")
    assert result.exit_code == 7
    assert len(fake.used.prompts) == 1


def test_a_terminal_conversation(monkeypatch: pytest.MonkeyPatch, fake: FakeAPI) -> None:
    result = typed(monkeypatch, fake, ["one", "", "/what", KeyboardInterrupt, "two"])
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{TEXT}\n{TEXT}\n\n"
    assert result.stderr.count("/reset forgets") == 3  # hello, /what, ctrl-C
    assert fake.used.prompts[1] == [user("one"), assistant(TEXT), user("two")]


def test_a_refused_request_on_a_terminal(monkeypatch: pytest.MonkeyPatch, fake: FakeAPI) -> None:
    fake.request_error = CapacityError("the request can never fit")
    result = typed(monkeypatch, fake, ["one", "two"])
    assert result.exit_code == 0, result.output
    assert result.stderr.count("the request can never fit\n/reset forgets") == 2
    assert fake.used.prompts == [[user("one")], [user("two")]]


def test_ctrl_c_stops_the_answer(monkeypatch: pytest.MonkeyPatch, fake: FakeAPI) -> None:
    def press(number: int) -> None:
        if number == 1 and len(fake.used.prompts) == 1:
            os.kill(os.getpid(), signal.SIGINT)

    fake.on_delta = press
    before = signal.getsignal(signal.SIGINT)
    result = typed(monkeypatch, fake, ["one", "two"])
    assert result.exit_code == 0, result.output
    assert result.stdout == f"a é\n{TEXT}\n\n"
    assert fake.used.prompts[1] == [user("one"), assistant("a é"), user("two")]
    assert fake.used.streams_closed == 2
    assert signal.getsignal(signal.SIGINT) is before


def test_a_second_ctrl_c_ends_the_program(monkeypatch: pytest.MonkeyPatch, fake: FakeAPI) -> None:
    def press_twice(number: int) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    fake.on_delta = press_twice
    result = typed(monkeypatch, fake, ["one", "two"])
    assert result.exit_code == 130
    assert fake.used.closed

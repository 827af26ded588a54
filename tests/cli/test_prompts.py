"""Prompts from the command line, from files and from a pipe."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from graphopt.cli.prompts import gather_prompts
from graphopt.errors import UsageError


def pipe(monkeypatch: pytest.MonkeyPatch, data: bytes, *, terminal: bool = False) -> None:
    stream = io.TextIOWrapper(io.BytesIO(data))
    monkeypatch.setattr(stream, "isatty", lambda: terminal)
    monkeypatch.setattr(sys, "stdin", stream)


def test_order(tmp_path: Path) -> None:
    file = tmp_path / "prompt.txt"
    file.write_text("from\na file\n")
    found = gather_prompts(["typed", ""], [file], [[1, 2]], lines=False)
    assert found == ["typed", "", "from\na file", [1, 2]]


def test_lines(tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_bytes(b"\xef\xbb\xbfone\r\n\r\n two \r\nthree")
    assert gather_prompts([], [file], [], lines=True) == ["one", " two ", "three"]


def test_one_newline_at_the_end_is_the_files(tmp_path: Path) -> None:
    file = tmp_path / "prompt.txt"
    file.write_text("text\n\n")
    assert gather_prompts([], [file], [], lines=False) == ["text\n"]


def test_stdin(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe(monkeypatch, "d'où\n".encode())
    assert gather_prompts([], [], [], lines=False) == ["d'où"]
    pipe(monkeypatch, b"one\ntwo\n")
    assert gather_prompts([], [Path("-")], [], lines=True) == ["one", "two"]


def test_stdin_is_left_alone_if_there_is_a_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe(monkeypatch, b"piped")
    assert gather_prompts(["typed"], [], [], lines=False) == ["typed"]
    assert sys.stdin.read() == "piped"


def test_no_prompt(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pipe(monkeypatch, b"", terminal=True)
    with pytest.raises(UsageError, match="there is no prompt"):
        gather_prompts([], [], [], lines=False)
    with pytest.raises(UsageError) as caught:
        gather_prompts([], [], [], lines=False, hint="give a TEXT")
    assert caught.value.next == "give a TEXT"
    pipe(monkeypatch, b"\n")
    with pytest.raises(UsageError, match="the prompt is empty"):
        gather_prompts([], [], [], lines=False)
    pipe(monkeypatch, b"\n \n")
    with pytest.raises(UsageError, match="no prompt in what was read"):
        gather_prompts([], [], [], lines=True)
    file = tmp_path / "blank.txt"
    file.write_text(" \n\n")
    with pytest.raises(UsageError, match="no prompt in what was read"):
        gather_prompts([], [file], [], lines=True)


def test_not_utf8(tmp_path: Path) -> None:
    file = tmp_path / "latin1.txt"
    file.write_bytes(b"caf\xe9")
    with pytest.raises(UsageError, match="not valid UTF-8") as caught:
        gather_prompts([], [file], [], lines=False)
    assert caught.value.where == str(file)
    assert caught.value.got is not None
    assert "byte 3" in caught.value.got
    with pytest.raises(UsageError, match="not valid UTF-8"):
        gather_prompts(["caf\udce9"], [], [], lines=False)


def test_utf8_in_a_locale_that_does_not_know_it() -> None:
    """In the C locale, Python hands every byte beyond ASCII over as a surrogate."""
    typed = "caf\xe9 \u65e5".encode().decode("ascii", "surrogateescape")
    assert gather_prompts([typed], [], [], lines=False) == ["caf\xe9 \u65e5"]


def test_unreadable(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        gather_prompts([], [tmp_path], [], lines=False)

"""How numbers, rows, tables and JSON are printed."""

from __future__ import annotations

import json
import math

import pytest

from graphopt.cli.output import (
    human_bytes,
    human_count,
    one_line,
    print_json,
    print_rows,
    print_table,
)


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 bytes"),
        (1023, "1023 bytes"),
        (1024, "1.0 KiB"),
        (3 << 19, "1.5 MiB"),
        (5 << 30, "5.0 GiB"),
        (2 << 40, "2.0 TiB"),
        (5000 << 40, "5000.0 TiB"),
    ],
)
def test_human_bytes(count: int, text: str) -> None:
    assert human_bytes(count) == text


def test_human_count() -> None:
    found = [human_count(n) for n in (7, 999, 1500, 5_200_000, 8_030_000_000)]
    assert found == ["7", "999", "1.5 k", "5.2 M", "8.03 B"]


def test_one_line() -> None:
    assert one_line("a\n\tb\x1b[31m") == "a\\n\\tb\\x1b[31m"
    assert one_line("x" * 60) == "x" * 60
    assert one_line("x" * 61) == "x" * 59 + "…"
    assert len(one_line("\n" * 60)) == 60


def test_json_has_no_infinities(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"a": [math.inf, (-math.inf, 1.5)], "b": math.nan, "c": "é"})
    text = capsys.readouterr().out
    assert json.loads(text) == {"a": [None, [None, 1.5]], "b": None, "c": "é"}
    assert "é" in text


def test_rows_are_aligned(capsys: pytest.CaptureFixture[str]) -> None:
    print_rows([("a", 1), ("long", "two\nlines")])
    assert capsys.readouterr().out == "a     1\nlong  two\n      lines\n"
    print_rows([])
    assert capsys.readouterr().out == ""


def test_a_table_in_a_pipe_keeps_its_lines(capsys: pytest.CaptureFixture[str]) -> None:
    long = "[bold]" + "word " * 50 + "[/bold]"
    print_table(("name", "n"), [("x", 1), (long, 22)], right=(1,), styles=["", "red"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert long in lines[2]  # no markup, no colour, not folded
    assert lines[1].endswith(" 1")
    assert lines[2].endswith("22")

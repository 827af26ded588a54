"""Progress is silent for a second, then lines, or bars on a terminal."""

from __future__ import annotations

import io
import time
from collections.abc import Callable

import pytest

from graphopt.cli.progress import ProgressReport

LIMIT_S = 10.0


def wait_for(stream: io.StringIO, done: Callable[[str], bool]) -> str:
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline and not done(stream.getvalue()):
        time.sleep(0.01)
    return stream.getvalue()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_silent_while_it_is_short() -> None:
    stream = io.StringIO()
    with ProgressReport(stream, delay_s=60) as progress:
        progress("tracing", 0, 0)
        progress("writing", 1, 2)
    assert stream.getvalue() == ""


def test_a_line_for_each_stage_that_is_met_late() -> None:
    stream = io.StringIO()
    with ProgressReport(stream, delay_s=0.01) as progress:
        progress("tracing", 0, 0)
        assert wait_for(stream, lambda text: "tracing" in text) == "graphopt: tracing\n"
        progress("writing", 1, 2)
        progress("writing", 2, 2)
    assert stream.getvalue() == "graphopt: tracing\ngraphopt: writing\n"


def test_a_stage_that_comes_before_the_delay_is_shown_after_it() -> None:
    stream = io.StringIO()
    with ProgressReport(stream, delay_s=0.05) as progress:
        progress("tracing", 0, 0)
        assert stream.getvalue() == ""
        wait_for(stream, bool)
    assert stream.getvalue() == "graphopt: tracing\n"


def test_bars_on_a_terminal() -> None:
    stream = Terminal()
    with ProgressReport(stream, delay_s=0.01) as progress:
        progress("reading [all]", 1, 4)
        wait_for(stream, lambda text: "reading [all]" in text)
        progress("writing", 3, 4)
        progress("writing", 4, 4)
        text = wait_for(stream, lambda text: "writing" in text)
    assert "reading [all]" in text
    assert "writing" in text


def test_an_error_ends_the_bars() -> None:
    stream = Terminal()

    def fail(progress: ProgressReport) -> None:
        progress("reading", 0, 0)
        wait_for(stream, lambda text: "reading" in text)
        raise ValueError("it broke")

    with (
        pytest.raises(ValueError, match="it broke"),
        ProgressReport(stream, delay_s=0.01) as progress,
    ):
        fail(progress)
    length = len(stream.getvalue())
    time.sleep(0.3)
    assert len(stream.getvalue()) == length

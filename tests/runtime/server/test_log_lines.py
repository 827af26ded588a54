"""Lines of the log: both forms, levels, libraries' own messages, and clients that forge lines."""

from __future__ import annotations

import io
import json
import logging
import re

import pytest

from graphopt.runtime.server.log_lines import LEVELS, Level, Lines

TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"
HOSTILE = ["a\nb", "a\r\nb", "\x1b[31m", 'q"q', "a=b c", "é\u2028é", "", "\\n", "\0"]


def written(form: str, level: Level = "debug") -> tuple[Lines, io.StringIO]:
    stream = io.StringIO()
    return Lines(stream, form, level), stream  # type: ignore[arg-type]


def test_text() -> None:
    lines, stream = written("text")
    lines.write("info", "request", id="a-1", status=200, seconds=0.25, why=None, finish=["stop"])
    line = stream.getvalue()
    assert re.fullmatch(
        TIME + r" info    request id=a-1 status=200 seconds=0\.25 finish=stop\n", line
    )


def test_json() -> None:
    lines, stream = written("json")
    lines.write("info", "request", id="a", status=200, seconds=0.25, why=None, finish=["stop"])
    found = json.loads(stream.getvalue())
    assert re.fullmatch(TIME, found.pop("time"))
    assert found == {
        "level": "info", "event": "request", "id": "a", "status": 200, "seconds": 0.25,
        "finish": ["stop"],
    }  # fmt: skip


@pytest.mark.parametrize("form", ["text", "json"])
@pytest.mark.parametrize("text", HOSTILE)
def test_a_fact_stays_on_its_line(form: str, text: str) -> None:
    lines, stream = written(form)
    lines.write("warning", "request", why=text, finish=[text])
    (line,) = stream.getvalue().splitlines()
    assert line.isascii()
    assert line.isprintable()
    if form == "text":
        shown = line.split("why=")[1].rpartition(" finish=")[0]
        assert (json.loads(shown) if shown.startswith('"') else shown) == text
    else:
        assert json.loads(line)["why"] == text


@pytest.mark.parametrize("least", LEVELS)
def test_levels(least: Level) -> None:
    lines, stream = written("json", least)
    for level in LEVELS:
        lines.write(level, "event")
        assert lines.writes(level) == (LEVELS.index(level) >= LEVELS.index(least))
    found = [json.loads(line)["level"] for line in stream.getvalue().splitlines()]
    assert found == list(LEVELS[LEVELS.index(least) :])


def test_libraries_write_through_it() -> None:
    lines, stream = written("json", "info")
    before = logging.getLogger().handlers[:]
    with lines.adopted():
        logging.getLogger("uvicorn.error").info("listening on %s", "there")
        logging.getLogger("uvicorn.error").debug("not this")
        logging.getLogger("asyncio").info("nor this")
        logging.getLogger("x").warning("%d", "no number")
        try:
            int("broken")
        except ValueError:
            logging.getLogger("x").exception("it broke")
        logging.getLogger("x").critical("worse")
    assert logging.getLogger().handlers == before
    logging.getLogger("x").error("too late")
    found = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [(one["level"], one["logger"], one["message"]) for one in found] == [
        ("info", "uvicorn.error", "listening on there"),
        ("warning", "x", "%d"),
        ("error", "x", "it broke"),
        ("error", "x", "worse"),
    ]
    assert "ValueError: invalid literal" in found[2]["traceback"]


def test_a_log_that_nobody_reads_stops_nothing() -> None:
    stream = io.StringIO()
    lines = Lines(stream)
    stream.close()
    lines.write("info", "event")
    assert stream.closed

"""Lines of the server's log, one an event, for people or for programs.

    2026-05-01T12:00:00.125Z info    request id=5c0e method=POST route=/v1/completions status=200
    {"time": "2026-05-01T12:00:00.125Z", "level": "info", "event": "request", "id": "5c0e", …}

Nothing that a client sends can begin a line of its own: what is not printable is escaped.
"""

from __future__ import annotations

import json
import logging
import traceback
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Literal, TextIO

Form = Literal["text", "json"]
Level = Literal["debug", "info", "warning", "error"]
LEVELS: tuple[Level, ...] = ("debug", "info", "warning", "error")
FORMS: tuple[Form, ...] = ("text", "json")
Value = str | int | float | bool | Sequence[str] | None


class Lines:
    """Writes lines.

    Args:
        stream: where to; a line that cannot be written is lost, and nothing else happens.
        form: ``text`` or ``json``.
        level: the least that is written.
    """

    def __init__(self, stream: TextIO, form: Form = "text", level: Level = "info") -> None:
        self._stream = stream
        self._form = form
        self._least = LEVELS.index(level)

    def writes(self, level: Level) -> bool:
        """Whether lines of this level are written."""
        return LEVELS.index(level) >= self._least

    def write(self, level: Level, event: str, **fields: Value) -> None:
        """One line: what happened and its facts, those that are not None."""
        if not self.writes(level):
            return
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
        known = {name: value for name, value in fields.items() if value is not None}
        if self._form == "json":
            line = json.dumps({"time": now, "level": level, "event": event, **known}, default=str)
        else:
            facts = "".join(f" {name}={_text(value)}" for name, value in known.items())
            line = f"{now} {level:<7} {event}{facts}"
        with suppress(OSError, ValueError):  # the reader of the log is gone, or the stream closed
            self._stream.write(line + "\n")
            self._stream.flush()

    @contextmanager
    def adopted(self) -> Iterator[None]:
        """While it lasts, what libraries log through ``logging`` comes here, uvicorn's included."""
        root, handler = logging.getLogger(), _Through(self)
        before = root.handlers[:], root.level
        root.handlers, root.level = (
            [handler],
            logging.DEBUG if self.writes("debug") else logging.INFO,
        )
        quiet = [logging.getLogger(name) for name in ("httpcore", "httpx", "asyncio", "urllib3")]
        levels = [logger.level for logger in quiet]
        for logger in quiet:
            logger.setLevel(logging.WARNING)
        try:
            yield
        finally:
            root.handlers, root.level = before
            for logger, level in zip(quiet, levels, strict=True):
                logger.setLevel(level)


class _Through(logging.Handler):
    """Passes what libraries log on."""

    def __init__(self, lines: Lines) -> None:
        super().__init__()
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record, its traceback as a fact of it."""
        above = bisect_right((logging.INFO, logging.WARNING, logging.ERROR), record.levelno)
        level = LEVELS[above]
        try:
            message = record.getMessage()
        except (TypeError, ValueError):  # the caller's arguments do not fit the caller's format
            message = str(record.msg)
        trace = None
        if record.exc_info and record.exc_info[0] is not None:
            trace = "".join(traceback.format_exception(*record.exc_info))
        self._lines.write(level, "log", logger=record.name, message=message, traceback=trace)


def _text(value: Value) -> str:
    """A fact as text: bare if it is one printable word, else as JSON would have it."""
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        value = ",".join(value)
    text = str(value)
    plain = text and text.isascii() and text.isprintable() and not set(text) & set(' "=\\')
    return text if plain else json.dumps(text)

"""The server's log of requests: one line for each when its answer has ended.

Neither prompts nor answers nor keys are in it, unless prompts are asked for.
"""

from __future__ import annotations

from .log_lines import Level, Lines
from .observer import Record
from .wire import Opened

# What is asked again and again by machines that watch the server.
WATCHED = frozenset(("/", "/health", "/ready", "/metrics", "/stats"))
MAX_WHY_CHARS = 300


class RequestLog:
    """A listener that writes lines.

    Args:
        lines: where to.
        log_prompts: whether prompts are written too.
    """

    def __init__(self, lines: Lines, *, log_prompts: bool = False) -> None:
        self._lines = lines
        self._log_prompts = log_prompts

    def arrived(self, record: Record) -> None:
        """Nothing: the line is written at the end."""

    def ended(self, record: Record) -> None:
        """One line for the request."""
        level = _level(record)
        if not self._lines.writes(level):
            return
        asked = record.generations
        ended = [one.ended.metrics for one in asked if one.ended is not None]
        first = min(
            (one.first_token_s for one in asked if one.first_token_s is not None), default=None
        )
        seconds = None if record.finished_s is None else record.finished_s - record.arrived_s
        self._lines.write(
            level,
            "request",
            id=record.id,
            method=record.method,
            route=record.route,
            status=record.status,
            seconds=_rounded(seconds),
            prompt_tokens=sum(one.prompt_tokens for one in asked) if asked else None,
            completion_tokens=sum(one.completion_tokens for one in asked) if asked else None,
            cached_tokens=sum(one.cached_tokens for one in ended) if ended else None,
            finish=sorted({reason for one in asked for reason in one.reasons}) or None,
            ttft_s=None if first is None else _rounded(first - record.arrived_s),
            disconnected=True if record.gone else None,
            why=None if record.why is None else record.why[:MAX_WHY_CHARS],
            prompt=self._prompts(record),
        )

    def _prompts(self, record: Record) -> list[str] | None:
        """What was asked, as far as it was text, if that is to be logged."""
        texts = [str(one.prompt) for one in record.generations if one.prompt is not None]
        return texts if self._log_prompts and texts else None

    def loaded(self, model: Opened) -> None:
        """Nothing: the server itself says when it is ready."""

    def gone(self) -> None:
        """Nothing: the supervisor says why."""


def _level(record: Record) -> Level:
    """How much a request matters."""
    status = record.status or 0
    if status >= 500 and status != 503:
        return "error"
    if status >= 400 or record.why is not None:
        return "warning"
    return "debug" if record.route in WATCHED else "info"


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 6)

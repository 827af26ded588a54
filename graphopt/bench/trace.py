"""A trace: a file of JSON lines, each a request that came once.

    {"timestamp": 0.0, "prompt": "def main(", "output_tokens": 32}
    {"timestamp": 0.7, "prompt_tokens": 512, "output_tokens": 64}

Timestamps are seconds on any clock; the first one is the start. ``input_length`` and
``output_length`` are understood as well, as other published traces have them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from graphopt.errors import UsageError

from .lengths import MOST_TOKENS

EXPECTED = '{"timestamp": SECONDS, "prompt": TEXT or "prompt_tokens": N, "output_tokens": N}'


@dataclass(frozen=True, slots=True)
class Traced:
    """A request of a trace.

    Attributes:
        at_s: when it came, from the start.
        prompt: its text; None if only its length is known.
        prompt_tokens: its length; None if its text is known.
        output_tokens: how much was generated.
    """

    at_s: float
    prompt: str | None
    prompt_tokens: int | None
    output_tokens: int


def read_trace(path: Path) -> list[Traced]:
    """The requests of a trace in the order in which they came.

    Raises:
        UsageError: there is no such file, or a line of it is no request.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError("the trace cannot be read", where=str(path), got=error) from error
    found = [
        _request(line, f"{path}:{number}") for number, line in enumerate(lines, 1) if line.strip()
    ]
    if not found:
        raise UsageError("the trace is empty", where=str(path))
    found.sort(key=lambda one: one.at_s)
    start = found[0].at_s
    return [
        Traced(one.at_s - start, one.prompt, one.prompt_tokens, one.output_tokens) for one in found
    ]


def _request(line: str, where: str) -> Traced:
    try:
        row: Any = msgspec.json.decode(line)
    except msgspec.DecodeError as error:
        raise UsageError("a line of the trace is not JSON", where=where, got=error) from error
    if not isinstance(row, Mapping):
        raise _wrong(where, line)
    at_s, prompt = row.get("timestamp"), row.get("prompt")
    length = row.get("prompt_tokens", row.get("input_length"))
    output = row.get("output_tokens", row.get("output_length"))
    if isinstance(prompt, str) and prompt:
        length = None
    elif prompt is not None or not _is_count(length):
        raise _wrong(where, line)
    if isinstance(at_s, bool) or not isinstance(at_s, int | float) or not _is_count(output):
        raise _wrong(where, line)
    return Traced(float(at_s), prompt, length, output)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MOST_TOKENS


def _wrong(where: str, line: str) -> UsageError:
    return UsageError(
        "a line of the trace is no request", where=where, got=line[:200], expected=EXPECTED
    )

"""Shapes of batches in a file: what ran, so that captures can be made for it.

A file holds one batch a line, as JSON::

    {"tokens": 5, "rows": 5, "sequences": 5, "blocks": 9, "longest_query": 1}

Other keys are left alone, and so are empty lines. A last line without its end is one that was being
written when a process was killed, and is left out. Other lines that are no batch are named by their
numbers.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, fields
from pathlib import Path
from typing import IO

from graphopt.errors import MachineError, UsageError

from .dispatch import BatchShape

_NAMES = tuple(one.name for one in fields(BatchShape))
_MOST_SIZE = 2**31 - 1
_MOST_LINE_BYTES = 4096
# Of the lines that are no batch, so many are described.
_DESCRIBED = 3


def read_trace(path: str | Path) -> Counter[BatchShape]:
    """How often each shape stands in a file.

    Raises:
        UsageError: the file cannot be read, or has no batch; or lines of it are none, and the first
            of them are named.
    """
    found: Counter[BatchShape] = Counter()
    wrong: list[str] = []
    try:
        with Path(path).open("rb") as stream:
            for number, line in enumerate(_lines(stream), 1):
                if not line.strip():
                    continue
                try:
                    found[_shape(line)] += 1
                except ValueError as error:
                    if line.endswith(b"\n"):
                        wrong.append(f"line {number}: {error}")
    except OSError as error:
        raise UsageError(
            "the trace cannot be read", where=str(path), got=error.strerror or error
        ) from error
    if wrong:
        more = f"; and {len(wrong) - _DESCRIBED} more" if len(wrong) > _DESCRIBED else ""
        raise UsageError(
            "the trace has lines that are no batch",
            where=str(path),
            got="; ".join(wrong[:_DESCRIBED]) + more,
            expected=json.dumps(dict.fromkeys(_NAMES, 1)),
            next="repair or delete these lines, or record it again with --record-trace",
        )
    if not found:
        raise UsageError(
            "the trace holds no batch",
            where=str(path),
            next="record one with --record-trace while the workload runs",
        )
    return found


class TraceRecorder:
    """Writes shapes of batches to a file, a line as soon as it is told one.

    Batches that are in the file already stay, so that several runs make one trace. A disk that is
    full ends the recording and not the run; ``close`` says so.

    Args:
        path: of the file.

    Raises:
        UsageError: it cannot be opened for writing, or what it holds does not end with a line.

    Usage: ``recorder = TraceRecorder("trace.jsonl"); recorder.record(shape); recorder.close()``.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = str(path)
        self._error: OSError | None = None
        try:
            # Bytes, and none kept back: a line is there as a whole, or cut off at the end.
            self._stream = Path(path).open("a+b", buffering=0)  # noqa: SIM115 - close() closes it
            is_whole = _ends_with_line(self._stream)
        except OSError as error:
            raise UsageError(
                "the trace cannot be written", where=self._path, got=error.strerror or error
            ) from error
        if not is_whole:
            self._stream.close()
            raise UsageError(
                "the trace does not end with a whole line",
                where=self._path,
                next="delete that line, or name another file",
            )

    def record(self, shape: BatchShape) -> None:
        """Write one shape."""
        if self._error is not None or self._stream.closed:
            return
        try:
            self._stream.write(json.dumps(asdict(shape)).encode() + b"\n")
        except OSError as error:
            self._error = error

    def close(self) -> None:
        """Finish the file. May be called twice.

        Raises:
            MachineError: not everything could be written; told once.
        """
        error, self._error = self._error, None
        self._stream.close()
        if error is not None:
            raise MachineError(
                "the trace is not complete",
                where=self._path,
                got=error.strerror or error,
                next="the lines before are whole, and can be used as they are",
            ) from error


def _ends_with_line(stream: IO[bytes]) -> bool:
    """Whether nothing or the end of a line comes before what is written next."""
    if not stream.seekable() or not stream.seek(0, os.SEEK_END):
        return True
    stream.seek(-1, os.SEEK_END)
    return stream.read(1) == b"\n"


def _lines(stream: IO[bytes]) -> Iterator[bytes]:
    """Lines with their ends; of one that is too long, as much as shows that."""
    while line := stream.readline(_MOST_LINE_BYTES):
        rest = line
        while len(rest) == _MOST_LINE_BYTES and not rest.endswith(b"\n"):
            rest = stream.readline(_MOST_LINE_BYTES)
        yield line if rest is line else line + rest[-1:]


def _shape(line: bytes) -> BatchShape:
    """The batch on a line.

    Raises:
        ValueError: there is none; the message says why.
    """
    if len(line) > _MOST_LINE_BYTES:
        raise ValueError(f"longer than {_MOST_LINE_BYTES} bytes")
    try:
        data = json.loads(line.decode())
    except (ValueError, RecursionError) as error:
        raise ValueError("not JSON") from error
    if not isinstance(data, dict):
        raise ValueError("not an object")  # noqa: TRY004
    sizes = {}
    for name in _NAMES:
        size = data.get(name)
        least = 0 if name == "rows" else 1
        if not isinstance(size, int) or isinstance(size, bool) or not least <= size <= _MOST_SIZE:
            got = "missing" if name not in data else f"{json.dumps(size)[:40]}"
            raise ValueError(f"{name} is {got}")
        sizes[name] = size
    shape = BatchShape(**sizes)
    # The longest has at most what the others leave, each having one, and at least the average.
    longest = range(-(-shape.tokens // shape.sequences), shape.tokens - shape.sequences + 2)
    if shape.longest_query not in longest or shape.rows > shape.tokens:
        raise ValueError(f"{shape.tokens} tokens do not go with its other sizes")
    return shape

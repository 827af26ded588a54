"""Traces: what a line may say, and what is wrong with others."""

from __future__ import annotations

from pathlib import Path

import pytest

from graphopt.bench.trace import Traced, read_trace
from graphopt.errors import UsageError


def test_requests_come_in_order_from_the_first(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_text(
        '{"timestamp": 12.5, "prompt_tokens": 7, "output_tokens": 3, "more": 1}\n\n'
        '{"timestamp": 10, "prompt": "é", "output_tokens": 4}\n'
        '{"timestamp": 11, "input_length": 9, "output_length": 5}\n',
        encoding="utf-8",
    )
    assert read_trace(path) == [
        Traced(0.0, "é", None, 4), Traced(1.0, None, 9, 5), Traced(2.5, None, 7, 3),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "line",
    [
        "[]", '{"timestamp": 1}', '{"timestamp": "1", "prompt": "a", "output_tokens": 1}',
        '{"timestamp": true, "prompt": "a", "output_tokens": 1}',
        '{"timestamp": 1, "prompt": "", "output_tokens": 1}',
        '{"timestamp": 1, "prompt": 3, "output_tokens": 1}',
        '{"timestamp": 1, "prompt_tokens": 0, "output_tokens": 1}',
        '{"timestamp": 1, "prompt_tokens": 1.5, "output_tokens": 1}',
        '{"timestamp": 1, "prompt": "a", "output_tokens": 99999999}',
    ],
)  # fmt: skip
def test_a_line_that_is_no_request_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_text('{"timestamp": 0, "prompt": "a", "output_tokens": 1}\n' + line + "\n")
    with pytest.raises(UsageError, match="is no request") as caught:
        read_trace(path)
    assert caught.value.where == f"{path}:2"


def test_files_that_are_no_trace(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    with pytest.raises(UsageError, match="cannot be read"):
        read_trace(path)
    path.write_text("\n")
    with pytest.raises(UsageError, match="is empty"):
        read_trace(path)
    path.write_text("{")
    with pytest.raises(UsageError, match="is not JSON"):
        read_trace(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="cannot be read"):
        read_trace(path)

"""Shapes come back from a file as they were written, and wrong lines are named."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphopt.errors import MachineError, UsageError
from graphopt.runtime.capture_trace import TraceRecorder, read_trace
from graphopt.runtime.dispatch import BatchShape

GOOD = {"tokens": 5, "rows": 5, "sequences": 5, "blocks": 9, "longest_query": 1}


def text(**changes: object) -> str:
    return json.dumps({**GOOD, **changes})


@st.composite
def shapes(draw: st.DrawFn) -> BatchShape:
    queries = draw(st.lists(st.integers(1, 9), min_size=1, max_size=9))
    rows = draw(st.integers(0, sum(queries)))
    return BatchShape(sum(queries), rows, len(queries), draw(st.integers(1, 99)), max(queries))


@given(st.lists(shapes(), min_size=1, max_size=30), st.integers(0, 30))
def test_what_is_recorded_is_read(tmp_path_factory, batches: list[BatchShape], cut: int):
    file = tmp_path_factory.mktemp("trace") / "trace.jsonl"
    for part in (batches[:cut], batches[cut:]):  # a second run goes on with the same file
        recorder = TraceRecorder(file)
        for shape in part:
            recorder.record(shape)
        recorder.close()
        recorder.close()
    found = read_trace(file)
    assert sorted(map(str, found.elements())) == sorted(map(str, batches))


def test_a_line_is_there_as_soon_as_it_is_recorded(tmp_path: Path):
    recorder = TraceRecorder(tmp_path / "trace")
    recorder.record(BatchShape(**GOOD))
    assert read_trace(tmp_path / "trace") == {BatchShape(**GOOD): 1}
    recorder.close()


def test_what_a_killed_process_left_is_no_error(tmp_path: Path):
    file = tmp_path / "trace"
    file.write_text(f"{text()}\n\n{text(note='mine')}\n{text()[:30]}", encoding="utf-8")
    assert read_trace(file) == {BatchShape(**GOOD): 2}
    file.write_text(f"{text()}\n{text()}", encoding="utf-8")  # whole, but for its end
    assert read_trace(file) == {BatchShape(**GOOD): 2}


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("{", "not JSON"),
        ("[" * 3000, "not JSON"),
        ("\udcff", "not JSON"),
        ("[1, 2]", "not an object"),
        ("3", "not an object"),
        (json.dumps({"tokens": 5}), "rows is missing"),
        (text(tokens=0), "tokens is 0"),
        (text(rows=-1), "rows is -1"),
        (text(rows=6), "5 tokens do not go"),
        (text(sequences=True), "sequences is true"),
        (text(blocks="9"), 'blocks is "9"'),
        (text(blocks=1.5), "blocks is 1.5"),
        (text(blocks=float("nan")), "blocks is NaN"),
        (text(blocks=2**31), "blocks is 2147483648"),
        (text(longest_query=2), "5 tokens do not go"),
        (text(tokens=11, longest_query=2), "11 tokens do not go"),
        (text(note="x" * 5000), "longer than 4096 bytes"),
        (text(note="x" * 20_000), "longer than 4096 bytes"),
    ],
)
def test_a_line_that_is_no_batch_is_named(tmp_path: Path, line: str, why: str):
    file = tmp_path / "trace"
    whole = f"{text()}\n{line}\n{text()}\n"
    file.write_bytes(whole.encode("utf-8", "surrogateescape"))
    with pytest.raises(UsageError, match="lines that are no batch") as caught:
        read_trace(file)
    assert str(caught.value.got).startswith(f"line 2: {why}")
    assert caught.value.where == str(file)


def test_many_wrong_lines_are_not_all_told(tmp_path: Path):
    file = tmp_path / "trace"
    file.write_text("no\n" * 9, encoding="utf-8")
    with pytest.raises(UsageError) as caught:
        read_trace(file)
    assert caught.value.got == (
        "line 1: not JSON; line 2: not JSON; line 3: not JSON; and 6 more"
    )  # fmt: skip


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(tmp_path_factory, data: bytes):
    file = tmp_path_factory.mktemp("trace") / "trace"
    file.write_bytes(data)
    with pytest.raises(UsageError):
        read_trace(file)


def test_no_file_and_no_batch(tmp_path: Path):
    with pytest.raises(UsageError, match="cannot be read"):
        read_trace(tmp_path / "none")
    with pytest.raises(UsageError, match="cannot be read"):
        read_trace(tmp_path)
    (tmp_path / "empty").write_bytes(b"\n")
    with pytest.raises(UsageError, match="no batch"):
        read_trace(tmp_path / "empty")
    with pytest.raises(UsageError, match="cannot be written"):
        TraceRecorder(tmp_path / "no" / "folder")


def test_nothing_is_added_to_half_a_line(tmp_path: Path):
    file = tmp_path / "trace"
    file.write_text(f"{text()}\n{text()[:30]}", encoding="utf-8")
    with pytest.raises(UsageError, match="whole line"):
        TraceRecorder(file)
    assert file.read_text(encoding="utf-8").endswith(text()[:30])


def test_a_full_disk_ends_the_recording_and_not_the_run():
    recorder = TraceRecorder("/dev/full")
    recorder.record(BatchShape(**GOOD))
    recorder.record(BatchShape(**GOOD))
    with pytest.raises(MachineError, match="not complete"):
        recorder.close()
    recorder.close()
    recorder.record(BatchShape(**GOOD))


def test_keys_are_the_names_of_sizes():
    assert list(asdict(BatchShape(**GOOD))) == list(GOOD)

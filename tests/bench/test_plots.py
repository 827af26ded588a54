"""Pictures: the numbers in them, and that they are drawn."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from graphopt.bench import plots
from graphopt.bench.outcome import Outcome
from graphopt.errors import MachineError

OUTCOMES = [
    Outcome(0.0, 0.0, 0.5, [0.25, 0.25], 1.0, 9, 3, 200),
    Outcome(0.5, 0.0, 0.5, [0.5], 1.0, 9, 2, 200),
    Outcome(0.75, 0.0, None, [], 0.25, 9, 0, 429, "full"),
]


def test_shares_rise_to_one() -> None:
    assert plots.shares([0.3, 0.1, 0.2]) == (
        pytest.approx([100, 200, 300]), pytest.approx([1 / 3, 2 / 3, 1]),
    )  # fmt: skip
    assert plots.shares([]) == ([], [])
    x, y = plots.shares([index / 1000 for index in range(5000)])
    assert len(x) == plots.MOST_POINTS
    assert (x[0], x[-1], y[-1]) == (0.0, pytest.approx(4999), 1.0)


def test_tokens_are_counted_where_they_came() -> None:
    at, rates = plots.tokens_over_time(OUTCOMES[:2], 0.5)
    # at 0.5, 0.75, 1.0 and at 1.0, 1.5
    assert at[:4] == pytest.approx([0, 0.5, 1.0, 1.5])
    assert rates[:4] == pytest.approx([0, 4, 4, 2])
    assert plots.tokens_over_time([], 0.5) == ([], [])


def test_requests_under_way() -> None:
    at, counts = plots.under_way(OUTCOMES)
    assert dict(zip(at, counts, strict=True)) == {0.0: 1, 0.5: 2, 0.75: 3, 1.0: 1, 1.5: 0}


def test_a_png(tmp_path: Path) -> None:
    path = tmp_path / "run.png"
    plots.draw_png(path, "a run", OUTCOMES)
    data = path.read_bytes()
    assert data.startswith(b"\x89PNG")
    width, height = struct.unpack(">II", data[16:24])
    assert width > 1000
    assert height > 600
    plots.draw_png(path, "nothing", [])


def test_a_png_of_several_rates(tmp_path: Path) -> None:
    run = {"request_rate": 1.0, "ttft_ms": {"p50": 1.0, "p99": 2.0}, "tpot_ms": None,
           "requests_per_s": 1.0, "goodput": {"requests_per_s": 0.5}}  # fmt: skip
    path = tmp_path / "rates.png"
    plots.draw_sweep_png(path, "rates", [run, {**run, "request_rate": 2.0}])
    assert path.read_bytes().startswith(b"\x89PNG")


def test_in_a_terminal() -> None:
    written: list[str] = []
    plots.draw_terminal(OUTCOMES, written.append, 80)
    assert [text.splitlines()[0].strip() for text in written] == [
        "time to first token (ms)", "time between tokens (ms)", "tokens per second (s)",
        "requests under way (s)",
    ]  # fmt: skip
    assert all(len(line) <= 80 for text in written for line in text.splitlines())
    assert "\x1b" not in "".join(written)
    plots.draw_terminal([], written.append)


def test_a_library_that_is_missing_is_named() -> None:
    plots.need("matplotlib", "plotext")
    with pytest.raises(MachineError, match="no_such_library") as caught:
        plots.need("no_such_library")
    assert caught.value.next == "pip install 'graphopt[bench]'"

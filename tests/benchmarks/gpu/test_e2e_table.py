"""Medians, and what they are of ours, whichever way is better."""

from __future__ import annotations

from rich.console import Console

from benchmarks.gpu.e2e_table import e2e_table


def row(engine: str, phase: str, unit: str, *samples: float) -> dict[str, object]:
    return {"engine": engine, "phase": phase, "unit": unit, "samples": list(samples)}


def test_a_table() -> None:
    rows = [
        row("ours", "decode", "ms/step", 1.0, 9.0, 2.0),
        row("ours", "serve", "tokens/s", 4000.0),
        row("peer", "decode", "ms/step", 4.0),
        row("peer", "serve", "tokens/s", 2000.0),
        {"engine": "other", "phase": "decode", "reason": "not installed"},
        {"engine": "ours", "phase": "start", "reason": "it failed"},
        row("peer", "start", "s", 3.0),
    ]
    console = Console(width=200, record=True)
    console.print(e2e_table(rows, ["ours", "peer", "other"]))
    lines = [
        [cell.strip() for cell in one.split("│")[1:-1]]
        for one in console.export_text().splitlines()
    ]
    found = {cells[0]: cells[1:] for cells in lines if cells}
    assert found["decode"] == ["ms/step", "2", "4 (0.50x)", "absent"]
    assert found["serve"] == ["tokens/s", "4,000", "2,000 (0.50x)", "absent"]
    assert found["start"] == ["s", "absent", "3", "absent"]
    text = "\n".join(str(one) for one in [e2e_table(rows, ["ours", "peer", "other"]).caption])
    assert "other: not installed" in text
    assert "ours: it failed" in text

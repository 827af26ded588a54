"""Progress lines."""

from __future__ import annotations

import pytest

from tools.setup.progress import complain, human, step


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 bytes"), (999, "999 bytes"), (25_000, "25 kB"), (1_300_000_000, "1.3 GB")],
)
def test_human(count: int, text: str) -> None:
    assert human(count) == text


def test_a_step_is_announced_and_timed(capsys: pytest.CaptureFixture[str]) -> None:
    with step("working"):
        complain("careful")
    out, err = capsys.readouterr()
    assert out == "setup: working ...\nsetup:   done in 0 s\n"
    assert err == "setup: careful\n"

"""Each forbidden word is found; ordinary prose is not."""

from __future__ import annotations

from pathlib import PurePosixPath

import pytest

from tools.house.words import forbidden_words

PATH = PurePosixPath("docs/guide.md")


# Joined, so that this file does not hold what it forbids.
@pytest.mark.parametrize(
    "line",
    [
        "# TO" + "DO: later",
        "# FIX" + "ME",
        "cd /wo" + "rk/main",
        "see '/ro" + "ot/x'",
        "open('/ho" + "me/ann/model')",
        "read ../sha" + "red/notes",
        "https://py" + "pi.org/simple",
        "closes iss" + "ue #12",
        "written by Cla" + "ude",
        "AI-gene" + "rated",
    ],
)
def test_found(line: str) -> None:
    (finding,) = forbidden_words([(PATH, f"first\n{line}\n")])
    assert finding.startswith("docs/guide.md:2: ")


@pytest.mark.parametrize(
    "line",
    [
        "the framework/main loop",
        "${HOME}/root/x",
        "a checkpoint under /home/someone/model",
        "tests/work/x.py",
        "a todo list application",
        "an issue with the driver",
        "shared memory, shared/static",
        "/proc/meminfo and /tmp/model.gopt",
    ],
)
def test_not_found(line: str) -> None:
    assert list(forbidden_words([(PATH, line)])) == []

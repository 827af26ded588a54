"""How pip is called, and what is made of its failures. pip is a small script here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tools.setup.pip import Pip, stage
from tools.setup.problem import SetupError


def fake(folder: Path, script: str, index: str | None = None) -> Pip:
    """An environment whose pip is a shell script; it writes its arguments to `arguments` first."""
    python = folder / "python"
    python.write_text(f'#!/bin/sh\necho "$@" > {folder}/arguments\n{script}\n')
    python.chmod(0o755)
    return Pip(python, folder / "tmp", folder / "setup.log", index)


def failing(folder: Path, output: str) -> Pip:
    (folder / "output").write_text(output)
    return fake(folder, f"cat {folder}/output >&2; exit 1")


def test_install_logs_and_downloads_beside_the_environment(tmp_path: Path) -> None:
    fake(tmp_path, 'echo "to $TMPDIR"').install("a==1", "b")
    assert (tmp_path / "arguments").read_text() == "-m pip install a==1 b\n"
    log = (tmp_path / "setup.log").read_text()
    assert f"to {tmp_path}/tmp" in log
    assert "pip install a==1 b" in log


def test_an_index_is_added(tmp_path: Path) -> None:
    fake(tmp_path, "", index="file:///wheels").install("a")
    expected = "-m pip install --extra-index-url=file:///wheels a\n"
    assert (tmp_path / "arguments").read_text() == expected


def test_resolve_reads_the_report(tmp_path: Path) -> None:
    rows = [{"metadata": {"name": "Torch", "version": "2.13.0+cpu"}}]
    (tmp_path / "report").write_text(json.dumps({"install": rows}))
    assert fake(tmp_path, f"cat {tmp_path}/report").resolve("torch") == {"torch": "2.13.0+cpu"}
    assert "--dry-run --quiet --report -" in (tmp_path / "arguments").read_text()


def test_resolve_of_a_version_that_is_not_offered(tmp_path: Path) -> None:
    pip = failing(
        tmp_path,
        "ERROR: Could not find a version that satisfies x==2 (from versions: 1.0)\n"
        "ERROR: No matching distribution found for x==2\n",
    )
    assert pip.resolve("x==2") is None


def test_resolve_without_any_version_is_no_answer(tmp_path: Path) -> None:
    pip = failing(
        tmp_path,
        "WARNING: Retrying: Failed to establish a new connection: Name or service not known\n"
        "ERROR: Could not find a version that satisfies x==2 (from versions: none)\n"
        "ERROR: No matching distribution found for x==2\n",
    )
    with pytest.raises(SetupError, match="the package index could not be reached"):
        pip.resolve("x==2")


@pytest.mark.parametrize(
    ("output", "meaning"),
    [
        ("OSError: [Errno 28] No space left on device", "the disk is full"),
        ("ProxyError('Cannot connect to proxy.')", "the package index could not be reached"),
        ("SSLError: CERTIFICATE_VERIFY_FAILED", "the package index could not be reached"),
        ("ERROR: No matching distribution found for x", "does not offer what is needed"),
        ("ERROR: No version satisfies x (from versions: none)", "offers no version at all"),
        ("ERROR: something else", "pip failed"),
    ],
)
def test_failures_are_explained(output: str, meaning: str, tmp_path: Path) -> None:
    many = "".join(f"line {number}\n" for number in range(100))
    with pytest.raises(SetupError) as error:
        failing(tmp_path, many + output + "\n").install("x")
    message = str(error.value)
    assert meaning in message.splitlines()[0]
    assert output in message
    assert "line 99" in message
    assert "line 80" not in message
    assert f"log: {tmp_path}/setup.log" in message


def test_of_many_attempts_the_last_is_shown(tmp_path: Path) -> None:
    attempts = [f"WARNING: Retrying (Retry(total={left})): ProxyError" for left in (4, 3, 2, 1, 0)]
    ignored = "WARNING: Location 'file:///none' is ignored"
    with pytest.raises(SetupError) as error:
        failing(tmp_path, "\n".join([*attempts, ignored, "ERROR: end"])).install("x")
    shown = str(error.value)
    assert "total=0" in shown
    assert "total=1" not in shown
    assert "Location" not in shown
    assert "ERROR: end" in shown


def test_an_earlier_failure_in_the_log_is_not_blamed(tmp_path: Path) -> None:
    (tmp_path / "setup.log").write_text("No space left on device\n")
    with pytest.raises(SetupError) as error:
        failing(tmp_path, "ERROR: something else\n").install("x")
    assert "disk" not in str(error.value)


def test_the_stage_is_the_last_that_says_something() -> None:
    log = "$ pip install torch\n"
    assert stage(log) == "starting"
    log += "Collecting torch\n  Downloading torch-2.13.0.whl (191.8 MB)\nWARNING: Location x\n"
    assert stage(log) == "Downloading torch-2.13.0.whl (191.8 MB)"
    log += "Installing collected packages: sympy, torch\n  Attempting uninstall: setuptools\n"
    assert stage(log) == "Installing collected packages"

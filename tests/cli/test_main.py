"""The group: help without weight, exit codes, and one line for every kind of failure."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from graphopt import __version__
from graphopt.cli.main import COMMANDS, cli
from graphopt.errors import (
    ArtifactError,
    CapacityError,
    CheckpointError,
    CompileError,
    DisagreementError,
    GraphoptError,
    IRError,
    MachineError,
    RequestError,
    UnsupportedError,
    UsageError,
)
from tests.cli.fake_api import FakeAPI

Run = Callable[..., Result]
GRAPHOPT = (sys.executable, "-m", "graphopt")
HEAVY = ("torch", "transformers", "numpy", "rich", "jinja2", "networkx")


def test_help_lists_every_command(run: Run) -> None:
    result = run("--help")
    assert result.exit_code == 0
    for name in COMMANDS:
        assert f"\n  {name} " in result.output
    assert "..." not in result.output.split("Commands:")[1], "a short help is cut off"
    assert run().output == result.output


def test_version(run: Run) -> None:
    assert run("--version").output == f"graphopt {__version__}\n"


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["compile", "--help"], []])
def test_help_imports_nothing_heavy(words: list[str]) -> None:
    program = f"""
import sys
from graphopt.cli.main import cli
try:
    cli({words!r})
except SystemExit as end:
    print("exit", end.code, sorted(set({HEAVY!r}) & set(sys.modules)))
"""
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert found.stdout.splitlines()[-1] == "exit 0 []", found.stderr


def test_every_option_says_what_it_does(run: Run) -> None:
    def check(command: click.Command, path: str) -> None:
        if isinstance(command, click.Group):
            context = click.Context(command)
            for name in command.list_commands(context):
                child = command.get_command(context, name)
                assert child is not None
                check(child, f"{path} {name}")
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                assert parameter.help, f"{path} {parameter.name}"
                assert parameter.help.endswith("."), f"{path} {parameter.name}"
        assert run(*path.split()[1:], "--help").exit_code == 0

    check(cli, "graphopt")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["serve-me"], "no such command 'serve-me'"),
        (["compile"], "missing argument 'CHECKPOINT'"),
        (["compile", "x", "--no-such-flag"], "no such option"),
        (["compile", "x", "--dtype", "int3"], "'int3' is not one of"),
        (["compile", "x", "--block-size", "0"], "0 is not in the range x>=1"),
        (["compile", "x", "--max-model-len", "many"], "'many' is not a number of tokens"),
        (["generate", "x", "--kv-cache-memory", "much"], "'much' is not a size"),
        (["generate", "x", "--token-ids", "1,a"], "'a' is not a token id"),
        (["generate", "x", "--file", "/no/such/file"], "does not exist"),
    ],
)
def test_usage_errors(run: Run, words: list[str], message: str) -> None:
    result = run(*words)
    assert result.exit_code == 2
    assert message.lower() in result.stderr.lower()
    assert result.stderr.startswith("graphopt: ")
    assert "--help" in result.stderr
    assert result.stdout == ""


def test_usage_error_as_json(run: Run) -> None:
    result = run("compile", "x", "--dtype", "int3", "--json")
    error = json.loads(result.stdout)["error"]
    assert (error["type"], error["exit_code"], result.exit_code) == ("UsageError", 2, 2)
    assert error["next"] == "see: graphopt compile --help"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UsageError("u"), 2),
        (CheckpointError("c"), 3),
        (UnsupportedError("x"), 4),
        (IRError("i"), 5),
        (CompileError("c"), 5),
        (ArtifactError("a"), 6),
        (RequestError("r"), 7),
        (CapacityError("r"), 7),
        (DisagreementError("d"), 8),
        (MachineError("m"), 9),
        (MemoryError(), 9),
        (KeyboardInterrupt(), 130),
        (ZeroDivisionError("division by zero"), 70),
    ],
)
def test_exit_codes(run: Run, fake: FakeAPI, error: BaseException, code: int) -> None:
    fake.failure = error
    result = run("compile", "checkpoint")
    assert result.exit_code == code
    assert "graphopt: " in result.stderr
    assert "Traceback" not in result.output


def test_an_error_shows_all_its_rows(run: Run, fake: FakeAPI) -> None:
    fake.failure = GraphoptError("it broke", where="here", got=1, expected=2, next="mend it")
    assert run("compile", "c").stderr == f"graphopt: {fake.failure}\n"
    found = json.loads(run("compile", "c", "--json").stdout)
    assert found == {
        "error": {
            "type": "GraphoptError",
            "what": "it broke",
            "at": "here",
            "got": "1",
            "expected": "2",
            "next": "mend it",
            "exit_code": 1,
        }
    }


def test_an_unexpected_exception_is_one_line(run: Run, fake: FakeAPI) -> None:
    fake.failure = ZeroDivisionError("division\nby zero")
    result = run("compile", "c")
    assert result.stderr.splitlines()[0] == (
        "graphopt: unexpected ZeroDivisionError: division by zero"
    )
    assert "--debug" in result.stderr
    assert "--debug" not in run("compile", "c", "--debug").stderr.splitlines()[-1]
    fake.failure = KeyError()
    assert run("compile", "c").stderr.splitlines()[0] == "graphopt: unexpected KeyError"


@pytest.mark.parametrize("words", [["--debug", "compile", "c"], ["compile", "c", "--debug"]])
def test_debug_shows_the_traceback(run: Run, fake: FakeAPI, words: list[str]) -> None:
    fake.failure = CheckpointError("it broke")
    result = run(*words)
    assert "Traceback" in result.stderr
    assert "fake_api.py" in result.stderr
    assert result.exit_code == 3


def test_options_after_two_dashes_are_not_ours(run: Run, fake: FakeAPI) -> None:
    fake.failure = CheckpointError("it broke")
    result = run("compile", "--", "--json")
    assert result.stdout == ""
    assert result.stderr.startswith("graphopt: it broke")


def test_main_as_a_program_has_no_traceback() -> None:
    done = subprocess.run(
        [*GRAPHOPT, "inspect", "/no/such/artifact"], capture_output=True, text=True
    )
    assert done.returncode == ArtifactError.exit_code
    assert done.stdout == ""
    assert done.stderr.startswith("graphopt: this is not an artifact\n  at")
    assert "Traceback" not in done.stderr


def test_a_closed_pipe_is_quiet() -> None:
    # The reader is gone before anything is written: every write fails with EPIPE.
    with subprocess.Popen(
        [*GRAPHOPT, "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        complaint = process.stderr.read()
        assert process.wait() == 141
    assert complaint == b""


def shell(line: str) -> subprocess.CompletedProcess[str]:
    """``line`` with $G for graphopt."""
    program = f'G() {{ {shlex.join(GRAPHOPT)} "$@"; }}; {line}'
    return subprocess.run(["sh", "-c", program], capture_output=True, text=True)


def test_what_stdout_cannot_take_is_said_on_stderr(tmp_path: Path) -> None:
    for options in ("", "--json"):
        done = shell(f"ulimit -f 0; G cache path {options} >{shlex.quote(str(tmp_path / 'out'))}")
        assert done.returncode == MachineError.exit_code
        assert done.stderr.startswith("graphopt: the file would be too large")
        assert "Traceback" not in done.stderr


def test_streams_that_are_not_there() -> None:
    assert shell("G cache path >&-").returncode == 0
    done = shell("G inspect /no/such >&- 2>&- <&-")
    assert (done.returncode, done.stderr) == (ArtifactError.exit_code, "")
    done = shell("G generate /no/such.gopt <&-")
    assert done.returncode == UsageError.exit_code
    assert "the prompt is empty" in done.stderr


def test_abort_from_the_runner(run: Run, fake: FakeAPI) -> None:
    fake.failure = click.Abort()
    result = CliRunner().invoke(cli, ["compile", "c"])
    assert (result.exit_code, result.stderr) == (130, "graphopt: interrupted\n")

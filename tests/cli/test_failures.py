"""Every exception becomes an error with a sentence, rows and an exit code."""

from __future__ import annotations

import errno
import os

import click
import pytest

from graphopt.cli.failures import as_failure, as_json, trace_of
from graphopt.errors import CheckpointError, MachineError, UnexpectedError, UsageError


def test_an_error_raised_on_purpose_is_itself() -> None:
    error = CheckpointError("gone")
    assert as_failure(error) is error


def test_a_usage_error_names_the_help_of_its_command() -> None:
    context = click.Context(click.Command("compile"), info_name="graphopt compile")
    found = as_failure(click.UsageError("Missing it.", context))
    assert isinstance(found, UsageError)
    assert (found.what, found.next) == ("missing it", "see: graphopt compile --help")
    assert as_failure(click.UsageError("Missing it.")).next == "see: graphopt --help"


def test_a_file_that_cannot_be_opened_needs_no_help() -> None:
    found = as_failure(click.FileError("prompts.txt", "Permission denied"))
    assert "prompts.txt" in found.what
    assert found.next is None


def test_memory() -> None:
    assert isinstance(as_failure(MemoryError("40 GiB")), MachineError)
    assert as_failure(MemoryError("40 GiB")).got == "40 GiB"
    assert as_failure(MemoryError()).got is None


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EMFILE])
def test_what_the_system_refuses_is_the_machines(number: int) -> None:
    found = as_failure(OSError(number, os.strerror(number), "/some/file"))
    assert isinstance(found, MachineError)
    assert (found.where, found.got) == ("/some/file", os.strerror(number))
    assert as_failure(OSError(number, os.strerror(number))).where is None


@pytest.mark.parametrize("debug", [False, True])
def test_anything_else_is_unexpected(debug: bool) -> None:
    found = as_failure(KeyError("a\nb"), debug=debug)
    assert isinstance(found, UnexpectedError)
    assert found.exit_code == 70
    assert found.what == "unexpected KeyError: 'a\\nb'"
    assert (found.next is None) is debug


def test_json_has_every_row() -> None:
    found = as_json(MachineError("no disk", where="/x", got=1, expected=2))["error"]
    assert found == {
        "type": "MachineError",
        "what": "no disk",
        "at": "/x",
        "got": "1",
        "expected": "2",
        "next": None,
        "exit_code": 9,
    }


def test_trace() -> None:
    def fail() -> None:
        raise ZeroDivisionError("division by zero")

    with pytest.raises(ZeroDivisionError) as caught:
        fail()
    text = trace_of(caught.value)
    assert "in fail" in text
    assert text.endswith("ZeroDivisionError: division by zero\n")

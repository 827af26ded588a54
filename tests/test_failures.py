"""Typed errors for whatever was raised."""

from __future__ import annotations

import errno

import pytest

from graphopt.errors import MachineError, RequestError, UnexpectedError
from graphopt.failures import typed


def test_what_was_raised_on_purpose_stays():
    error = RequestError("no")
    assert typed(error, next="look") is error


@pytest.mark.parametrize("error", [MemoryError("2 GiB"), OSError(errno.ENOMEM, "no memory")])
def test_memory_is_the_machines(error):
    found = typed(error)
    assert isinstance(found, MachineError)
    assert found.what == "memory ran out"
    assert found.got in ("2 GiB", "no memory")


def test_a_full_disk_is_named_with_its_file():
    found = typed(OSError(errno.ENOSPC, "no space", "/some/file"))
    assert isinstance(found, MachineError)
    assert found.where == "/some/file"


def test_the_rest_is_a_defect():
    found = typed(KeyError("layer"), next="look")
    assert isinstance(found, UnexpectedError)
    assert found.what == "unexpected KeyError: 'layer'"
    assert found.next == "look"
    assert found.exit_code == 70
    assert typed(ValueError()).what == "unexpected ValueError"

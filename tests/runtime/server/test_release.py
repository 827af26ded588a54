"""The version is that of the package, however it was found."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError

import pytest

import graphopt
from graphopt.runtime.server import release


def test_the_version_is_the_packages() -> None:
    assert release.release() == graphopt.__version__


def test_a_checkout_that_is_not_installed_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(release, "version", missing)
    assert release.release() == ""

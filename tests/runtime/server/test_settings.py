"""Settings: defaults that are safe, and values that make no sense."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from graphopt.errors import UsageError
from graphopt.runtime.server.settings import Limits, Settings

HERE = Path("models/demo.gopt")


def test_by_default_only_this_machine_connects() -> None:
    assert Settings(HERE).is_loopback
    assert Settings(HERE, host="::1").is_loopback
    assert Settings(HERE, host="0.0.0.0", uds=Path("socket")).is_loopback
    assert not Settings(HERE, host="0.0.0.0").is_loopback
    assert not Settings(HERE, host="example.org").is_loopback


def test_a_model_is_called_by_its_folder_or_as_it_is_told() -> None:
    assert Settings(HERE).names == ("demo",)
    assert Settings(HERE, served_names=("a", "b")).names == ("a", "b")


@pytest.mark.parametrize(
    "values",
    [
        {"port": -1},
        {"port": 65536},
        {"api_keys": ("",)},
        {"api_keys": ("two words",)},
        {"api_keys": ("schlüssel",)},
        {"drain_s": -1.0},
        {"silence_s": 0.0},
        {"drain_s": float("nan")},
        {"served_names": ("",)},
    ],
)
def test_values_that_make_no_sense_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        Settings(HERE, **values)


def test_a_key_is_never_shown() -> None:
    assert "hush" not in repr(Settings(HERE, api_keys=("hush",)))


@pytest.mark.parametrize("one", fields(Limits), ids=lambda one: one.name)
def test_every_limit_is_explained_and_positive(one: Any) -> None:
    assert one.metadata["help"].endswith(".")
    with pytest.raises(UsageError, match="positive"):
        Limits(**{one.name: 0})

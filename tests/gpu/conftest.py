"""The device that tests of whole plans run on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from graphopt.runtime.executors.gpu.driver import DriverDevice


@pytest.fixture
def device() -> Iterator[DriverDevice]:
    found = DriverDevice()
    yield found
    found.close()

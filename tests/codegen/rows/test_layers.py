"""Norms and rotary positions."""

from __future__ import annotations

import pytest

from ..cpp.row_cases import EVERY_ISA, check_all
from .layers_graphs import norms, ropes


@pytest.mark.parametrize("isa", EVERY_ISA)
def test_norms(isa: str) -> None:
    check_all(norms(), isa)


@pytest.mark.parametrize("isa", EVERY_ISA)
def test_rope(isa: str) -> None:
    check_all(ropes(), isa)

"""docs/serving.md says which options and routes there are."""

from __future__ import annotations

import re
from dataclasses import fields

import pytest

from graphopt.runtime.server.settings import Limits
from tests.runtime.server.fake_engine import FakeEngine, app_over
from tools.serving_page import PAGE, page, table

TEXT = PAGE.read_text(encoding="utf-8")


def test_the_table_is_current() -> None:
    assert page(TEXT) == TEXT, "run: python -m tools.serving_page"


@pytest.mark.parametrize("one", fields(Limits), ids=lambda one: one.name)
def test_every_limit_is_in_the_table_with_its_sentence(one) -> None:
    rows = [line for line in table().splitlines() if f"`--{one.name.replace('_', '-')}`" in line]
    assert len(rows) == 1
    assert one.metadata["help"] in rows[0]


def test_every_route_is_on_the_page() -> None:
    for path in app_over(FakeEngine()).openapi()["paths"]:
        assert path.replace("{model}", "{name}") in TEXT, path


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", TEXT):
        assert (PAGE.parent / target).is_file(), target

"""The protocols that the routes are written against."""

from __future__ import annotations

from graphopt.runtime.server.client import Answer, Client


def test_the_protocols_name_what_a_route_needs() -> None:
    assert {"model", "state", "submit"} <= Client.__protocol_attrs__  # type: ignore[attr-defined]
    assert {"ended", "abort", "__anext__"} <= Answer.__protocol_attrs__  # type: ignore[attr-defined]

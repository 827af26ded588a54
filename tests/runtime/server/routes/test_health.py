"""What operators' machines ask."""

from __future__ import annotations

from graphopt import __version__

from ..fake_engine import FakeEngine, get


def test_a_server_without_a_model_is_alive_but_not_ready() -> None:
    engine = FakeEngine()
    assert get("/ready", engine).json() == {"status": "ok"}
    engine.model = None
    assert get("/health", engine).json() == {"status": "ok"}
    found = get("/ready", engine)
    assert (found.status_code, found.json()["error"]["code"]) == (503, "engine_gone")
    assert int(found.headers["retry-after"]) > 0


def test_the_version_is_that_of_the_package() -> None:
    assert get("/version").json() == {"version": __version__}

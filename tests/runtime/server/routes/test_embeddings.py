"""``/v1/embeddings``: a plain no."""

from __future__ import annotations

from ..fake_engine import FakeEngine, post


def test_a_model_that_generates_says_so() -> None:
    engine = FakeEngine()
    found = post("/v1/embeddings", {"input": "a", "model": "demo"}, engine)
    assert found.status_code == 400
    error = found.json()["error"]
    assert error["code"] == "model_generates"
    assert "cannot be compiled yet" in error["message"]
    assert engine.asked == []


def test_what_is_not_valid_is_told_first() -> None:
    assert post("/v1/embeddings", {}).json()["error"]["param"] == "input"
    assert post("/v1/embeddings", {"input": "a", "model": "x"}).status_code == 404

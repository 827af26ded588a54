"""``/v1/models``."""

from __future__ import annotations

from graphopt.runtime.server.protocol.models import ModelList

from ..fake_engine import CONTEXT, FakeEngine, get


def test_every_name_of_the_model_is_listed() -> None:
    found = get("/v1/models", served_names=("a", "org/b"))
    cards = ModelList.model_validate_json(found.content).data
    assert [one.id for one in cards] == ["a", "org/b"]
    assert {one.root for one in cards} == {"a"}
    assert {one.max_model_len for one in cards} == {CONTEXT}


def test_one_name_may_have_a_slash_or_not_be_there() -> None:
    assert get("/v1/models/org/b", served_names=("a", "org/b")).json()["id"] == "org/b"
    missing = get("/v1/models/c")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "model_not_found")


def test_models_are_listed_while_they_load() -> None:
    engine = FakeEngine()
    engine.model = None
    assert get("/v1/models", engine).json()["data"][0]["max_model_len"] is None

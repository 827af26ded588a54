"""What the server says of itself."""

from __future__ import annotations

from graphopt.runtime.server.protocol.models import Alive, ModelCard, ModelList, Version


def test_a_list_of_models_has_openais_shape() -> None:
    card = ModelCard(id="b", created=1, root="a", max_model_len=None)
    assert ModelList(data=[card]).model_dump() == {
        "object": "list",
        "data": [
            {
                "id": "b",
                "object": "model",
                "created": 1,
                "owned_by": "graphopt",
                "root": "a",
                "parent": None,
                "max_model_len": None,
            }
        ],
    }


def test_health_and_version_are_one_word_each() -> None:
    assert Alive().model_dump() == {"status": "ok"}
    assert Version(version="1").model_dump() == {"version": "1"}

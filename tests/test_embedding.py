"""What a plan says of embedding comes back from JSON, and nothing else does."""

from __future__ import annotations

import json
from typing import Any

import pytest

from graphopt.embedding import Dense, Embedding

PLAIN = Embedding(8, "mean", normalize=True, whole=True)
DEEP = Embedding(
    8,
    "last",
    normalize=False,
    whole=False,
    dense=(Dense("d0", "", 8, 24, "identity"), Dense("d1", "b1", 24, 6, "tanh")),
)


@pytest.mark.parametrize(("embedding", "dimensions"), [(PLAIN, 8), (DEEP, 6)])
def test_comes_back_from_json(embedding: Embedding, dimensions: int) -> None:
    assert Embedding.from_json(json.loads(json.dumps(embedding.to_json()))) == embedding
    assert embedding.dimensions == dimensions


@pytest.mark.parametrize(
    "changed",
    [
        {"pooling": "median"},
        {"size": 0},
        {"size": 7},
        {"normalize": 1},
        {"dense": [["d0", "", 8, 24, "swish"]]},
        {"dense": [["d0", "", 9, 24, "tanh"]]},
        {"dense": [["d0", "", 8, 24]]},
    ],
)
def test_nothing_else_does(changed: dict[str, Any]) -> None:
    with pytest.raises((KeyError, TypeError, ValueError)):
        Embedding.from_json({**DEEP.to_json(), **changed})

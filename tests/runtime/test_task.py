"""Both tasks name each other."""

import pytest

from graphopt.embedding import Embedding
from graphopt.errors import RequestError
from graphopt.runtime.task import demand_embeds, demand_generates

EMBEDDING = Embedding(4, "mean", True, True)


def test_who_does_what_is_asked_is_let_be():
    demand_generates(None)
    assert demand_embeds(EMBEDDING) is EMBEDDING


def test_the_other_task_is_named():
    with pytest.raises(RequestError, match="into vectors") as caught:
        demand_generates(EMBEDDING)
    assert "LLM.embed" in caught.value.next
    assert "--task generate" in caught.value.next
    with pytest.raises(RequestError, match="generates") as caught:
        demand_embeds(None)
    assert "LLM.generate" in caught.value.next
    assert "--task embed" in caught.value.next

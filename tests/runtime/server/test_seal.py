"""Artifacts that were replaced are told from those that were not."""

from __future__ import annotations

import pytest

from graphopt.errors import ArtifactError
from graphopt.runtime.server.seal import demand_same, seal_of


def test_a_seal_knows_the_files_and_not_their_order() -> None:
    manifest = {"schema": 2, "files": {"a": {"digest": "1"}, "b": {"digest": "2"}}}
    again = {"files": {"b": {"digest": "2"}, "a": {"digest": "1"}}, "schema": 2}
    assert seal_of(manifest) == seal_of(again)
    demand_same(again, seal_of(manifest), "model.gopt")
    demand_same(manifest, "", "model.gopt")
    other = {"schema": 2, "files": {"a": {"digest": "1"}, "b": {"digest": "3"}}}
    with pytest.raises(ArtifactError, match="replaced") as caught:
        demand_same(other, seal_of(manifest), "model.gopt")
    assert caught.value.where == "model.gopt"

"""What routes share: the model's name, whether it is there, salts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from graphopt.errors import EngineGoneError
from graphopt.runtime.server.http_errors import ApiError
from graphopt.runtime.server.service import Service
from graphopt.runtime.server.settings import Settings

from .fake_engine import EMBEDDING, OPENED, WORDS, FakeEngine


def _service(**settings: Any) -> Service:
    return Service.of(Settings(Path("demo.gopt"), **settings), FakeEngine(), WORDS)


def test_a_model_answers_to_its_names_and_to_none() -> None:
    service = _service(served_names=("a", "b"))
    assert [service.name(one) for one in (None, "a", "b")] == ["a", "a", "b"]
    with pytest.raises(ApiError, match="no model 'c'") as caught:
        service.name("c")
    assert (caught.value.status_code, caught.value.code) == (404, "model_not_found")


def test_no_model_is_there_while_it_loads() -> None:
    service = _service()
    assert service.opened() == OPENED
    service.client.model = None  # type: ignore[misc]
    with pytest.raises(EngineGoneError):
        service.opened()


def test_a_model_either_generates_or_embeds() -> None:
    service = _service()
    assert service.generator() == OPENED
    with pytest.raises(ApiError, match="--task embed"):
        service.embedder()
    service = replace(service, embedding=EMBEDDING)
    assert service.embedder() == (OPENED, EMBEDDING)
    with pytest.raises(ApiError, match="/v1/embeddings"):
        service.generator()


def _request(key: bytes) -> Any:
    return SimpleNamespace(scope={"state": {"key": key}})


def test_prompts_are_found_again_under_the_same_key_and_salt_alone() -> None:
    service = _service()
    assert service.salt(_request(b""), None) == b""
    salts = [
        service.salt(_request(key), salt)
        for key in (b"", b"1" * 32, b"2" * 32)
        for salt in (None, "x", "y")
    ]
    assert len(set(salts)) == 9
    assert service.salt(_request(b"1" * 32), "x") == salts[4]


def test_keys_share_prompts_if_the_operator_wants_it() -> None:
    service = _service(share_prefixes=True)
    assert service.salt(_request(b"1" * 32), None) == b""
    assert service.salt(_request(b"1" * 32), "x") == service.salt(_request(b"2" * 32), "x")

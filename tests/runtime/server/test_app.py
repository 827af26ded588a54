"""The app as a whole: its layers, its document, and what it does not import."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from graphopt.runtime.server.settings import Limits

from .fake_engine import FakeEngine, app_over, get, post


def _references(value: Any) -> set[str]:
    if isinstance(value, dict):
        own = {value["$ref"]} if isinstance(value.get("$ref"), str) else set()
        return own.union(*map(_references, value.values()))
    return set().union(*map(_references, value)) if isinstance(value, list) else set()


def test_the_document_says_what_every_route_answers() -> None:
    found = get("/openapi.json").json()
    assert found["info"]["title"] == "graphopt"
    for path, methods in found["paths"].items():
        for method, operation in methods.items():
            answers = operation["responses"]
            assert "422" not in answers
            assert "200" in answers or path == "/v1/embeddings"
            if method == "post":
                assert {"400", "401", "413", "415", "429", "503"} <= set(answers)
                schema = operation["requestBody"]["content"]["application/json"]["schema"]
                assert "$ref" in schema
            for status, answer in answers.items():
                if status >= "400":
                    schema = answer["content"]["application/json"]["schema"]
                    assert schema["$ref"].endswith("/ErrorReply")
    for path in ("/v1/completions", "/v1/chat/completions", "/v1/responses"):
        content = found["paths"][path]["post"]["responses"]["200"]["content"]
        assert set(content) == {"application/json", "text/event-stream"}
    known = {f"#/components/schemas/{name}" for name in found["components"]["schemas"]}
    assert _references(found) <= known


def test_keys_are_in_the_document_if_they_are_asked_for() -> None:
    paths = app_over(FakeEngine(), api_keys=("k",)).openapi()["paths"]
    assert paths["/v1/models"]["get"]["security"] == [{"key": []}]
    assert "security" not in paths["/health"]["get"]
    assert "security" not in app_over(FakeEngine()).openapi()["paths"]["/version"]["get"]


@pytest.mark.parametrize("path", ["/docs", "/redoc", "/v1/completions/"])
def test_there_are_no_pages_that_load_programs_and_no_redirects(path: str) -> None:
    assert get(path).status_code == 404


def test_the_http_process_imports_no_framework_for_models() -> None:
    code = (
        "import sys, graphopt.runtime.server.app as app; "
        "print([n for n in ('torch', 'transformers', 'triton') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_refusal_at_any_layer_carries_the_requests_id() -> None:
    assert get("/version", api_keys=("k",)).headers["x-request-id"]
    assert get("/nothing").headers["x-request-id"]
    body = {"prompt": "a" * 100}
    found = post("/tokenize", body, limits=Limits(max_body_bytes=10))
    assert (found.status_code, bool(found.headers["x-request-id"])) == (413, True)

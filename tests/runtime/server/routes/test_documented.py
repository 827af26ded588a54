"""How routes are described."""

from __future__ import annotations

from graphopt.runtime.server.protocol.common import ErrorReply
from graphopt.runtime.server.protocol.completions import Completion
from graphopt.runtime.server.routes.documented import component, generated, refusals


def test_a_refusal_has_the_one_shape_and_says_when_to_come_again() -> None:
    found = refusals(400, 503)
    assert found[400]["model"] is found[503]["model"] is ErrorReply
    assert "Retry-After" in found[503]["headers"]
    assert "headers" not in found[400]


def test_a_route_that_generates_also_streams() -> None:
    found = generated(Completion, Completion)
    assert found["response_model"] is Completion
    event = found["responses"][200]["content"]["text/event-stream"]["schema"]
    data = event["properties"]["data"]
    assert data["contentSchema"] == {"$ref": "#/components/schemas/Completion"}
    assert {400, 401, 404, 408, 413, 415, 429, 500, 503} <= set(found["responses"])


def test_a_model_that_no_route_names_has_its_schemas() -> None:
    found = component(Completion)
    assert set(found) >= {"Completion", "CompletionChoice", "Usage"}
    assert "$defs" not in found["Completion"]

"""How routes are described."""

from __future__ import annotations

from graphopt.runtime.server.protocol.common import ErrorReply
from graphopt.runtime.server.protocol.completions import Completion
from graphopt.runtime.server.routes.documented import generated, refusals


def test_a_refusal_has_the_one_shape_and_says_when_to_come_again() -> None:
    found = refusals(400, 503)
    assert found[400]["model"] is found[503]["model"] is ErrorReply
    assert "Retry-After" in found[503]["headers"]
    assert "headers" not in found[400]


def test_a_route_that_generates_also_streams() -> None:
    found = generated(Completion)
    assert found["response_model"] is Completion
    assert "text/event-stream" in found["responses"][200]["content"]
    assert {400, 401, 404, 408, 413, 415, 429, 500, 503} <= set(found["responses"])

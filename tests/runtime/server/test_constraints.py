"""Every way to say what an answer has to be; two at once, and nonsense, are refused by name."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import pytest

from graphopt.errors import RequestError
from graphopt.runtime.constraint import Constraint
from graphopt.runtime.server import constraints as module
from graphopt.runtime.server.constraints import GrammarChecker, constraint_of
from graphopt.runtime.server.http_errors import ApiError
from graphopt.runtime.server.protocol.common import SamplingFields

from ..constrained import HOSTILE

SCHEMA = {"type": "integer"}


def _of(**fields: Any) -> Constraint | None:
    return constraint_of(SamplingFields(**fields))


def test_each_way_becomes_a_constraint() -> None:
    strict = {"name": "n", "schema": SCHEMA, "strict": True}
    form = {"type": "json_schema", "json_schema": strict}
    schema = Constraint.json_schema(SCHEMA)
    assert _of() is None
    assert _of(response_format={"type": "text"}) is None
    assert _of(response_format={"type": "json_object"}) == Constraint.json_object()
    assert _of(response_format=form) == schema
    assert _of(guided_json=SCHEMA) == schema
    assert _of(guided_json=json.dumps(SCHEMA)).kind == "json_schema"
    assert _of(guided_regex="a") == Constraint.regex("a")
    assert _of(guided_choice=["a", "b"]) == Constraint.choice(["a", "b"])
    assert _of(guided_grammar='start: "a"') == Constraint.grammar('start: "a"')
    assert _of(structured_outputs={"json": SCHEMA}) == schema
    assert _of(structured_outputs={"regex": "a"}) == Constraint.regex("a")
    assert _of(structured_outputs={"choice": ["a"], "regex": None}) == Constraint.choice(["a"])
    assert _of(structured_outputs={"json_object": True}) == Constraint.json_object()


def test_a_schema_that_is_not_strict_is_lenient() -> None:
    inner = {"name": "n", "schema": {**SCHEMA, "not": {}}}
    found = _of(response_format={"type": "json_schema", "json_schema": inner})
    asyncio.run(GrammarChecker().check(found))
    strict = {"type": "json_schema", "json_schema": {**inner, "strict": True}}
    with pytest.raises(RequestError, match="cannot be met"):
        asyncio.run(GrammarChecker().check(_of(response_format=strict)))


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"response_format": {}}, "response_format.type"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format"),
        ({"response_format": {"type": "json_schema", "json_schema": 3}}, "response_format"),
        ({"guided_choice": []}, "guided_choice"),
        ({"guided_regex": "a" * 300_000}, "guided_regex"),
        ({"structured_outputs": {}}, "structured_outputs"),
        ({"structured_outputs": {"regex": "a", "choice": ["a"]}}, "structured_outputs"),
        ({"structured_outputs": {"regex": 3}}, "structured_outputs.regex"),
        ({"structured_outputs": {"json": [1]}}, "structured_outputs.json"),
        ({"structured_outputs": {"choice": [1]}}, "structured_outputs.choice"),
        ({"guided_regex": "a", "guided_choice": ["a"]}, "guided_choice"),
        ({"guided_regex": "a", "response_format": {"type": "json_object"}}, "guided_regex"),
    ],
    ids=str,
)
def test_what_makes_no_sense_is_refused_by_name(fields: dict[str, Any], name: str) -> None:
    with pytest.raises(ApiError) as caught:
        _of(**fields)
    assert (caught.value.status_code, caught.value.param) == (400, name)


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_hostile_is_refused_while_others_are_answered(name: str) -> None:
    async def ticks() -> float:
        worst_s, checking = 0.0, asyncio.ensure_future(GrammarChecker().check(HOSTILE[name]))
        while not checking.done():
            before_s = time.monotonic()
            await asyncio.sleep(0.001)
            worst_s = max(worst_s, time.monotonic() - before_s)
        with pytest.raises(RequestError):
            await checking
        return worst_s

    assert asyncio.run(ticks()) < 0.5  # on a loaded machine


def test_checking_has_a_limit_and_remembers_what_was_good(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Constraint] = []

    def slow(constraint: Constraint) -> None:
        seen.append(constraint)
        time.sleep(0.05)

    monkeypatch.setattr(module, "check_constraint", slow)
    checker = GrammarChecker()

    async def twice() -> None:
        await checker.check(None)
        await checker.check(Constraint.regex("a"))
        await checker.check(Constraint.regex("a"))

    asyncio.run(twice())
    assert len(seen) == 1
    monkeypatch.setattr(module, "CHECK_S", 0.01)
    with pytest.raises(RequestError, match="too long"):
        asyncio.run(checker.check(Constraint.regex("b")))

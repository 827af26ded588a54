"""The app is what its OpenAPI document says, for whatever schemathesis thinks of."""

from __future__ import annotations

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import CHECKS, load_all_checks

from graphopt.runtime.server.settings import Limits

from .fake_engine import EMBEDDING, FakeEngine, app_over

# A list that is longer than the document allows may be longer than a body is, too.
LIMITS = Limits(max_body_bytes=1 << 28)
APP = app_over(FakeEngine(" hi"), limits=LIMITS)
SCHEMA = schemathesis.openapi.from_asgi("/openapi.json", APP)
EMBEDS = app_over(FakeEngine(), limits=LIMITS, embedding=EMBEDDING)
VECTORS = schemathesis.openapi.from_asgi("/openapi.json", EMBEDS).include(
    path_regex="^/v1/(embeddings|completions)$"
)
load_all_checks()
# A value that fits a schema may still make no sense: the context, the vocabulary and the operator's
# limits are not in it.
LEFT_OUT = ("positive_data_acceptance",)
EXCLUDED = [CHECKS.get_one(name) for name in LEFT_OUT]
COMMON = {"deadline": None, "suppress_health_check": list(HealthCheck)}


@SCHEMA.parametrize()
@settings(max_examples=4, derandomize=True, **COMMON)
def test_every_answer_is_the_documents(case) -> None:
    case.call_and_validate(excluded_checks=EXCLUDED)


@VECTORS.parametrize()
@settings(max_examples=30, derandomize=True, **COMMON)
def test_a_model_that_embeds_answers_likewise(case) -> None:
    case.call_and_validate(excluded_checks=EXCLUDED)


@pytest.mark.full
@SCHEMA.parametrize()
@settings(max_examples=100, derandomize=True, **COMMON)
def test_every_answer_is_the_documents_at_length(case) -> None:
    case.call_and_validate(excluded_checks=EXCLUDED)

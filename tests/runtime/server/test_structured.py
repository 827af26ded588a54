"""A real server under constraints, asked by OpenAI's own client."""

from __future__ import annotations

import concurrent.futures
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import openai
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from graphopt.runtime.llm import LLM
from graphopt.runtime.sampling_params import SamplingParams

from ..constrained import LANGUAGES, Language
from .running import Served

TALK: Any = [{"role": "user", "content": "Return the number of"}]
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 2},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}
FORM: Any = {
    "type": "json_schema",
    "json_schema": {"name": "person", "schema": SCHEMA, "strict": True},
}


@pytest.fixture(scope="module")
def client(server: Served) -> openai.OpenAI:
    """OpenAI's own."""
    return openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0)


@pytest.fixture(scope="module")
def llm(demo: Path) -> Iterator[LLM]:
    """The demo model in this process."""
    with LLM(demo, threads=1, kv_cache_memory=1 << 24, seed=0) as found:
        yield found


@settings(
    deadline=None, max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    languages=st.lists(LANGUAGES, min_size=8, max_size=8),
    temperature=st.sampled_from([0.0, 1.0, 3.0]),
)
def test_what_the_demo_model_writes_is_in_the_language(
    llm: LLM, languages: list[Language], temperature: float
) -> None:
    params = [
        SamplingParams(constraint=one.constraint, max_tokens=80, temperature=temperature)
        for one in languages
    ]
    outputs = llm.generate(["def read(self):"] * len(params), params)
    for language, output in zip(languages, outputs, strict=True):
        assert output.finish_reason == "length" or language.has(output.text), output.text


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_answers_fit_their_schema(client: openai.OpenAI, temperature: float) -> None:
    found = client.chat.completions.create(
        model="demo",
        messages=TALK,
        response_format=FORM,
        temperature=temperature,
        max_tokens=150,
        n=4,
        seed=1,
    )
    for choice in found.choices:
        assert choice.finish_reason == "stop"
        jsonschema_rs.validate(SCHEMA, json.loads(choice.message.content or ""))


def test_a_streamed_answer_fits_its_schema(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model="demo", messages=TALK, response_format=FORM, max_tokens=150, stream=True
    )
    chunks = [chunk.choices[0] for chunk in stream]
    text = "".join(one.delta.content or "" for one in chunks)
    jsonschema_rs.validate(SCHEMA, json.loads(text))
    assert chunks[-1].finish_reason == "stop"


def test_patterns_and_choices(client: openai.OpenAI) -> None:
    def complete(**extra: Any) -> str:
        found = client.completions.create(
            model="demo", prompt="x = ", max_tokens=60, extra_body=extra
        )
        assert found.choices[0].finish_reason == "stop"
        return found.choices[0].text

    assert re.fullmatch("[a-f]{3,9}-[0-9]{1,5}!", complete(guided_regex="[a-f]{3,9}-[0-9]{1,5}!"))
    assert complete(guided_choice=["yes", "no", "it depends"]) in ("yes", "no", "it depends")
    assert json.loads(complete(structured_outputs={"json": {"enum": [1, "one"]}})) in (1, "one")
    grammar = 'start: "<" WORD ">"\nWORD: /[a-z]{2,5}/'
    assert re.fullmatch("<[a-z]{2,5}>", complete(guided_grammar=grammar))


def test_a_constraint_that_cannot_be_met_is_refused(client: openai.OpenAI) -> None:
    for pattern in ("(", r"(a)\1"):
        with pytest.raises(openai.BadRequestError, match="regex"):
            client.completions.create(
                model="demo", prompt="x", extra_body={"guided_regex": pattern}
            )


def test_others_go_on_while_somebody_is_hostile(client: openai.OpenAI) -> None:
    def hostile() -> None:
        body = {"guided_regex": "a(a{1000}){1000}"}
        client.completions.create(model="demo", prompt="x", max_tokens=20, extra_body=body)

    def other() -> float:
        begun_s = time.monotonic()
        client.completions.create(model="demo", prompt="x", max_tokens=30)
        return time.monotonic() - begun_s

    other()
    with concurrent.futures.ThreadPoolExecutor(3) as threads:
        attacks = [threads.submit(hostile) for _ in range(2)]
        worst_s = max(other() for _ in range(6))
    assert worst_s < 5.0  # on a loaded machine; alone it takes some milliseconds
    for attack in attacks:
        assert attack.exception() is None or isinstance(attack.exception(), openai.APIStatusError)

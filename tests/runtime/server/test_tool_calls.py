"""Tools as requests offer them, and what becomes of the model's text."""

from __future__ import annotations

import json
from typing import Any

import jsonschema_rs
import numpy as np
import pytest

from graphopt.errors import UsageError
from graphopt.runtime.grammar import Vocabulary, compile_grammar, next_mask
from graphopt.runtime.server.http_errors import ApiError
from graphopt.runtime.server.tool_calls import (
    HERMES,
    LLAMA_JSON,
    MAX_TOOLS,
    PYTHONIC,
    STYLES,
    Offer,
    Tools,
    style_of,
    tools_of,
)

from ..tokenizers_zoo import in_zoo

PLACE = {"$defs": {"p": {"enum": ["a", "b"]}}, "properties": {"at": {"$ref": "#/$defs/p"}},
         "required": ["at"], "additionalProperties": False}  # fmt: skip


def tool(name: str, parameters: Any = None, **more: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": parameters, **more}}


OFFERED = [tool("weather", PLACE), tool("now")]


def tools(style: str | None = HERMES, **fields: Any) -> Tools | None:
    offer = Offer(
        fields.get("tools", OFFERED) or [],
        fields.get("tool_choice"),
        one_call=fields.get("parallel_tool_calls") is False,
    )
    return tools_of(offer, style)


def test_styles_are_known_by_their_templates() -> None:
    assert style_of("... <tool_call> {{ x }}") == HERMES
    assert style_of("{{- '<|python_tag|>' }}") == LLAMA_JSON
    assert style_of("[func_name1(params_name1=params_value1) <|python_tag|>") == PYTHONIC
    assert style_of("<tool_call><function=name>") is None
    assert style_of("{{ messages }}") is None
    assert style_of(None) is None
    assert style_of(None, PYTHONIC) == PYTHONIC
    with pytest.raises(UsageError, match="parser"):
        style_of("<tool_call>", "xml")


def test_without_tools_there_is_nothing_to_do() -> None:
    assert tools(tools=None) is None
    assert tools(tools=[], tool_choice="auto") is None
    assert tools(tool_choice="none", style=None) is None


def test_with_auto_the_model_answers_as_it_likes() -> None:
    found = tools()
    assert found is not None
    assert found.constraint is None
    assert found.names == {"weather", "now"}
    assert found.offered == OFFERED


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": None, "tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": "always"}, "tool_choice"),
        ({"tool_choice": {"type": "function", "function": {"name": "other"}}}, "tool_choice"),
        ({"tool_choice": {"type": "custom"}}, "tool_choice"),
        ({"tools": [{"type": "web_search"}]}, "tools"),
        ({"tools": [tool("no spaces")]}, "tools"),
        ({"tools": [tool("a", [])]}, "tools"),
        ({"tools": [tool("a"), tool("a")]}, "tools"),
        ({"tools": [tool(f"a{one}") for one in range(MAX_TOOLS + 1)]}, "tools"),
        ({"style": None}, "tools"),
    ],
    ids=str,
)
def test_what_makes_no_sense_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(ApiError) as caught:
        tools(**fields)
    assert (caught.value.status_code, caught.value.param) == (400, param)


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize(
    "choice", ["required", {"type": "function", "function": {"name": "weather"}}], ids=str
)
def test_a_call_that_is_demanded_is_one_that_the_schema_allows(style: str, choice: Any) -> None:
    found = tools(style, tool_choice=choice)
    assert found is not None
    assert found.constraint is not None
    tokenizer = in_zoo("byte_level")
    vocabulary = Vocabulary.of(tokenizer, tokenizer.vocab_size)
    grammar = compile_grammar(found.constraint, vocabulary)
    seen = set()
    for seed in range(12):
        rng, drawn, inner = np.random.default_rng(seed), [], grammar.start.deep_copy()
        mask, accepts = grammar.mask, False
        while not (accepts and (rng.random() < 0.5 or not mask.any())):
            allowed = np.nonzero(np.unpackbits(mask.view(np.uint8), bitorder="little"))[0]
            drawn.append(int(rng.choice(allowed)))
            assert inner.consume_token(drawn[-1])
            mask, accepts = next_mask(inner, vocabulary), inner.is_accepting()
        reader = found.reader()
        text = tokenizer.decode(drawn)
        deltas = [*reader.push(text), *reader.finish()]
        assert reader.calls, text
        assert not any("content" in one for one in deltas)
        for call in reader.calls:
            arguments = json.loads(call["function"]["arguments"])
            seen.add(call["function"]["name"])
            if call["function"]["name"] == "weather":
                jsonschema_rs.validate(PLACE, arguments)
        assert len(reader.calls) == 1 or (style == HERMES and choice == "required")
    assert seen == ({"weather", "now"} if choice == "required" else {"weather"})


def test_calls_become_deltas_that_begin_with_a_name() -> None:
    found = tools()
    assert found is not None
    reader = found.reader()
    call = '<tool_call>{"name": "now", "arguments": {"a": 1}}</tool_call>'
    deltas = [*reader.push(f"So: {call}{call}"), *reader.finish()]
    assert deltas[0] == {"content": "So:"}
    assert [one["tool_calls"][0]["index"] for one in deltas[1:]] == [0, 0, 1, 1]
    first, second = (one["tool_calls"][0] for one in deltas[1:3])
    assert first["function"] == {"name": "now", "arguments": ""}
    assert first["type"] == "function"
    assert first["id"].startswith("call_")
    assert second == {"index": 0, "function": {"arguments": '{"a": 1}'}}
    assert reader.calls[0]["id"] != reader.calls[1]["id"]
    assert reader.reason("stop") == "tool_calls"
    assert reader.reason("length") == "length"
    assert reader.reason(None) is None


def test_one_call_is_kept_if_one_is_wanted() -> None:
    found = tools(parallel_tool_calls=False)
    assert found is not None
    reader = found.reader()
    call = '<tool_call>{"name": "now", "arguments": {}}</tool_call>'
    reader.push(call + call)
    assert len(reader.calls) == 1


def test_an_answer_without_calls_ends_as_it_did() -> None:
    found = tools()
    assert found is not None
    reader = found.reader()
    assert reader.push("Hello.") == [{"content": "Hello."}]
    assert reader.finish() == []
    assert reader.reason("stop") == "stop"

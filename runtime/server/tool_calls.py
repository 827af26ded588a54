"""Tools that a request offers: how the model is told, held to them, and understood.

How a model writes its calls is known from its chat template, or chosen with ``--tool-call-parser``.
``tool_choice`` "required", or of one function, becomes a constraint, so the answer is a call that
its schema allows; with "auto" the model answers as it likes, and what looks like a call of a
function that was offered is one.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from graphopt.errors import UsageError

from ..constraint import Constraint
from ..tokenizer import Tokenizer
from .http_errors import refuse, unsupported
from .tool_styles.events import Begin, Event, Parser
from .tool_styles.hermes import BEGIN, END, HermesParser
from .tool_styles.llama_json import TAG, LlamaJsonParser
from .tool_styles.pythonic import PythonicParser

MAX_TOOLS = 128
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
MARKS = (BEGIN, END, TAG)
HERMES, LLAMA_JSON, PYTHONIC = "hermes", "llama3_json", "pythonic"
STYLES: Mapping[str, Callable[[frozenset[str]], Parser]] = {
    HERMES: HermesParser,
    LLAMA_JSON: LlamaJsonParser,
    PYTHONIC: PythonicParser,
}
# Texts of templates that tell how the model writes calls; the first that is there decides.
_SIGNS = (
    ("<function=", None),
    ("func_name1(", PYTHONIC),
    (BEGIN, HERMES),
    ('"parameters": dictionary of argument', LLAMA_JSON),
    (TAG, LLAMA_JSON),
)
# Models were trained with these separators within calls.
_SPACED = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


def style_of(template: str | None, wanted: str | None = None) -> str | None:
    """How a model writes calls; None if that is not known.

    Args:
        template: its chat template for tools.
        wanted: what the operator says.

    Raises:
        UsageError: there is no such style.
    """
    if wanted is not None:
        if wanted not in STYLES:
            raise UsageError(
                "the parser of tool calls is unknown", got=wanted, expected=", ".join(STYLES)
            )
        return wanted
    return next((style for sign, style in _SIGNS if sign in (template or "")), None)


@dataclass(frozen=True, slots=True)
class Offer:
    """What a request says of tools, in the form of chats.

    Attributes:
        tools: functions with their schemas, as the template takes them.
        choice: ``none``, ``auto``, ``required``, or a function by name; None for ``auto``.
        one_call: whether no more than one call is wanted.
    """

    tools: list[dict[str, Any]]
    choice: str | dict[str, Any] | None = None
    one_call: bool = False


@dataclass(frozen=True, slots=True)
class Tools:
    """The tools of one request.

    Attributes:
        offered: as the template takes them.
        style: how calls are written in this answer.
        names: functions that can be called.
        constraint: what the answer has to be; None for anything.
        is_single: whether no more than one call is wanted.
    """

    offered: list[dict[str, Any]]
    style: str
    names: frozenset[str]
    constraint: Constraint | None
    is_single: bool

    def reader(self) -> CallReader:
        """What understands one sample."""
        return CallReader(STYLES[self.style](self.names), is_single=self.is_single)

    def params(self, tokenizer: Tokenizer | None) -> dict[str, Any]:
        """Sampling parameters under which calls are made, and can be read."""
        given: dict[str, Any] = {}
        if self.constraint is not None:
            given["constraint"] = self.constraint
        if tokenizer is not None:  # marks of calls that are special tokens have to be seen
            marks = (tokenizer.token_id(one) for one in MARKS)
            given["skip_special_tokens"] = not any(one in tokenizer.special_ids for one in marks)
        return given


def tools_of(offer: Offer, style: str | None) -> Tools | None:
    """The tools of a request; None if there are none, or none may be called.

    Raises:
        ApiError: tools or choice make no sense, or the model's calls are not understood.
    """
    offered, choice = offer.tools, offer.choice
    if not offered:
        if choice not in (None, "none", "auto"):
            raise refuse("tool_choice needs tools", "tool_choice")
        return None
    if len(offered) > MAX_TOOLS:
        raise refuse(f"tools may have at most {MAX_TOOLS} entries", "tools", "over_limit")
    functions = {}
    for number, tool in enumerate(offered):
        function = _function(number, tool)
        if function["name"] in functions:
            raise refuse(f"tools.{number} has a name that was there before", "tools")
        functions[function["name"]] = function
    wanted = _wanted(choice, functions)
    if wanted is None:
        return None
    if style is None:
        raise unsupported(
            "tools", "how this model writes calls is not known; start with --tool-call-parser"
        )
    names, is_single = frozenset(wanted), offer.one_call
    if choice in (None, "auto"):
        return Tools(offered, style, names, None, is_single)
    is_single = is_single or isinstance(choice, dict)
    # Python's literals have no grammar here: a model that must call writes JSON.
    style = LLAMA_JSON if style == PYTHONIC else style
    constraint = _demand(style, [functions[name] for name in wanted], is_single=is_single)
    return Tools(offered, style, names, constraint, is_single)


def _function(number: int, tool: dict[str, Any]) -> dict[str, Any]:
    """The function of one tool, checked."""
    function = tool.get("function")
    if tool.get("type") != "function" or not isinstance(function, dict):
        raise refuse(f"tools.{number} is no function", "tools")
    name = function.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise refuse(f"tools.{number}.function.name is not 1 to 64 letters, digits, _.-", "tools")
    if not isinstance(function.get("parameters"), dict | None):
        raise refuse(f"tools.{number}.function.parameters is no JSON schema", "tools")
    return function


def _wanted(choice: object, functions: Mapping[str, Any]) -> list[str] | None:
    """Names of the functions that may be called; None for no call at all."""
    if choice == "none":
        return None
    if choice in (None, "auto", "required"):
        return list(functions)
    if isinstance(choice, dict) and choice.get("type") == "function":
        named = choice.get("function")
        name = named.get("name") if isinstance(named, dict) else None
        if isinstance(name, str) and name in functions:
            return [name]
        raise refuse("tool_choice names a function that is not among tools", "tool_choice")
    raise refuse("tool_choice is none, auto, required, or a function by name", "tool_choice")


def _demand(style: str, functions: list[dict[str, Any]], *, is_single: bool) -> Constraint:
    """The language of calls of some functions."""
    key = "arguments" if style == HERMES else "parameters"
    rules = [f"one{number}: %json {_schema(one, key)}" for number, one in enumerate(functions)]
    any_of = " | ".join(f"one{number}" for number in range(len(functions)))
    if style == HERMES:
        call = f'{json.dumps(BEGIN)} "\\n" body "\\n" {json.dumps(END)}'
        start = "call" if is_single else 'call ("\\n" call)*'
        head = [f"start: {start}", f"call: {call}", f"body: {any_of}"]
    else:
        head = [f"start: {any_of}"]
    return Constraint.grammar("\n".join([*head, *rules]))


def _schema(function: dict[str, Any], key: str) -> str:
    """The schema of a call of one function."""
    parameters = dict(function.get("parameters") or {})
    parameters = {"type": "object", **parameters}
    strict = function.get("strict") is True
    schema: dict[str, Any] = {
        "type": "object",
        "properties": {"name": {"const": function["name"]}, key: parameters},
        "required": ["name", key],
        "additionalProperties": False,
        "x-guidance": {**_SPACED, "lenient": not strict},
    }
    for name in ("$defs", "definitions"):  # references begin at the root
        if name in parameters:
            schema[name] = parameters.pop(name)
    return json.dumps(schema, ensure_ascii=False)


class CallReader:
    """Turns the text of one sample into content and calls as the protocol has them.

    Args:
        parser: of the model's style.
        is_single: whether all calls after the first are left out.
    """

    def __init__(self, parser: Parser, *, is_single: bool) -> None:
        self._parser = parser
        self._is_single = is_single
        self._leaves_out = False  # the call that goes on
        self.calls: list[dict[str, Any]] = []

    def push(self, text: str) -> list[dict[str, Any]]:
        """The deltas that ``text`` adds."""
        return self._deltas(self._parser.push(text))

    def finish(self) -> list[dict[str, Any]]:
        """The last deltas."""
        return self._deltas(self._parser.finish())

    def reason(self, reason: str | None) -> str | None:
        """Why the sample ended, calls considered."""
        return "tool_calls" if reason == "stop" and self.calls else reason

    def _deltas(self, events: list[Event]) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        for event in events:
            if isinstance(event, str):
                found.append({"content": event})
            elif isinstance(event, Begin):
                self._leaves_out = self._is_single and bool(self.calls)
                if not self._leaves_out:
                    found.append(self._begin(event.name))
            elif not self._leaves_out:
                self.calls[-1]["function"]["arguments"] += event.text
                more = {"index": len(self.calls) - 1, "function": {"arguments": event.text}}
                found.append({"tool_calls": [more]})
        return found

    def _begin(self, name: str) -> dict[str, Any]:
        """The delta that says who is called; with what, the next ones say."""
        call = {
            "id": f"call_{uuid.uuid4().hex[:24]}",
            "type": "function",
            "function": {"name": name, "arguments": ""},
        }
        self.calls.append(call)
        function = {"name": name, "arguments": ""}
        return {"tool_calls": [{"index": len(self.calls) - 1, **call, "function": function}]}

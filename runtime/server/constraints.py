"""What an answer has to be, in all the ways in which requests say it.

``response_format`` is OpenAI's; ``structured_outputs`` and ``guided_...`` are vLLM's. All of them
become one ``Constraint``, and a request has at most one.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import blake3

from graphopt.errors import RequestError

from ..constraint import Constraint
from ..grammar import check_constraint
from .http_errors import refuse, unsupported
from .protocol.common import SamplingFields

CONSTRAINTS = (
    "structured_outputs",
    "guided_json",
    "guided_regex",
    "guided_choice",
    "guided_grammar",
)
CHECK_S = 10.0
_KNOWN = 256


def constraint_of(body: SamplingFields) -> Constraint | None:
    """The constraint that a request asks for; None if it asks for none.

    Raises:
        ApiError: it asks for two, or for something that is none.
        RequestError: a source is too long.
    """
    found: dict[str, Constraint] = {}
    if body.response_format is not None:
        one = of_format(body.response_format)
        if one is not None:
            found["response_format"] = one
    if body.structured_outputs is not None:
        found["structured_outputs"] = _structured(body.structured_outputs)
    guided = {
        "json": body.guided_json,
        "regex": body.guided_regex,
        "choice": body.guided_choice,
        "grammar": body.guided_grammar,
    }
    for kind, source in guided.items():
        if source is not None:
            found[f"guided_{kind}"] = _of(f"guided_{kind}", kind, source)
    if len(found) > 1:
        names = list(found)
        raise refuse(f"{' and '.join(names)} exclude each other", names[1])
    return next(iter(found.values()), None)


def of_format(form: dict[str, Any], where: str = "response_format") -> Constraint | None:
    """The constraint of OpenAI's ``response_format``.

    A schema that is not ``strict`` is demanded all the same, but without those of its keywords that
    cannot be.

    Raises:
        ApiError: it is not of a known type.
    """
    kind = form.get("type")
    if kind == "text":
        return None
    if kind == "json_object":
        return Constraint.json_object()
    if kind != "json_schema":
        raise unsupported(f"{where}.type", "it is text, json_object or json_schema")
    # The schema lies in an object of its own, but for the route /v1/responses.
    inner = form.get("json_schema", form)
    schema = inner.get("schema") if isinstance(inner, dict) else None
    if not isinstance(schema, dict):
        raise refuse(f"{where}.json_schema.schema is missing, or no object", where)
    if inner.get("strict") is not True:
        schema = {"x-guidance": {"whitespace_flexible": False, "lenient": True}, **schema}
    return Constraint.json_schema(schema)


def _structured(options: dict[str, Any]) -> Constraint:
    """The constraint of vLLM's ``structured_outputs``."""
    given = {name: value for name, value in options.items() if value not in (None, False)}
    kinds = [name for name in given if name in ("json", "regex", "choice", "grammar")]
    if given.get("json_object") is True:
        kinds.append("json_object")
    if len(kinds) != 1:
        raise refuse(
            "structured_outputs has exactly one of json, regex, choice, grammar, json_object",
            "structured_outputs",
        )
    (kind,) = kinds
    return _of(f"structured_outputs.{kind}", kind, given[kind])


def _of(name: str, kind: str, source: Any) -> Constraint:
    """The constraint of one kind.

    Raises:
        ApiError: the source is of another type than it should be.
    """
    makers: dict[str, tuple[Any, Any]] = {
        "json": (Constraint.json_schema, str | dict),
        "regex": (Constraint.regex, str),
        "choice": (Constraint.choice, list),
        "grammar": (Constraint.grammar, str),
        "json_object": (lambda _: Constraint.json_object(), bool),
    }
    make, kinds = makers[kind]
    if not isinstance(source, kinds):
        raise refuse(f"{name} is not of the right type", name)
    try:
        made: Constraint = make(source)
    except RequestError as error:
        raise refuse(f"{name}: {error.what}; got: {error.got}", name) from error
    return made


class GrammarChecker:
    """Says of constraints whether they can be met at all, before anything is queued.

    On one thread of its own, which gives up Python's lock while it compiles; what was found good is
    remembered.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "graphopt-check")
        self._good: OrderedDict[bytes, None] = OrderedDict()

    async def check(self, constraint: Constraint | None) -> None:
        """Look at a request's constraint.

        Raises:
            RequestError: it cannot be met, or takes too long to compile.
        """
        if constraint is None:
            return
        key = blake3.blake3(f"{constraint.kind}\0{constraint.source}".encode()).digest()
        if key in self._good:
            self._good.move_to_end(key)
            return
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(CHECK_S):
                await loop.run_in_executor(self._thread, check_constraint, constraint)
        except TimeoutError as error:
            raise RequestError(
                f"the constraint of kind {constraint.kind} takes too long to compile",
                expected=f"at most {CHECK_S:g} s",
                next="simplify it",
            ) from error
        self._good[key] = None
        if len(self._good) > _KNOWN:
            self._good.popitem(last=False)

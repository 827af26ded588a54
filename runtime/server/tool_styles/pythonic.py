"""Calls as Llama 3.2 and 4 may write them: a list of calls in Python, and nothing else.

    [get_weather(city="Paris", days=3), get_time(zone="CET")]

The text is parsed, and never evaluated: arguments are literals, with names.
"""

from __future__ import annotations

import ast
import json
import math
import re
import warnings
from typing import Any

from .events import Call, Event
from .llama_json import TAG

MAX_CHARS = 64 << 10
_BEGINS = re.compile(r"\s*(?:\[\s*(?:[A-Za-z_][\w.]*\s*(?:\(.*)?)?)?", re.DOTALL)
_CONSTANTS = {"true": True, "false": False, "null": None}


class PythonicParser:
    """Reads one answer.

    Args:
        names: functions that can be called.
    """

    def __init__(self, names: frozenset[str]) -> None:
        self._names = names
        self._text = ""
        self._is_call = self._is_content = False  # as far as its beginning tells

    def push(self, text: str) -> list[Event]:
        """Nothing as long as the text may be calls; they are known at the end."""
        if self._is_content:
            return [text] if text else []
        self._text += text
        if self._may_be_calls():
            return []
        self._is_content = True
        return [self._text] if self._text else []

    def finish(self) -> list[Event]:
        """The calls, or the text."""
        if self._is_content or not self._text:
            return []
        calls = calls_of(self._text.strip().removeprefix(TAG), self._names)
        return [event for call in calls for event in call.events] or [self._text]

    def _may_be_calls(self) -> bool:
        if len(self._text) > MAX_CHARS:
            return False
        if self._is_call:
            return True
        rest = self._text.lstrip()
        if TAG.startswith(rest) or rest.startswith(TAG):
            rest = rest[len(TAG) :]
        found = _BEGINS.fullmatch(rest)
        self._is_call = found is not None and "(" in rest
        return found is not None


def calls_of(text: str, names: frozenset[str]) -> list[Call]:
    """The calls that a text is a list of; none if it is anything else."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about what the model wrote
            tree = ast.parse(text.strip(), mode="eval").body
        if not isinstance(tree, ast.List):
            return []
        return [_call(node, names) for node in tree.elts]
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
        return []


def _call(node: ast.expr, names: frozenset[str]) -> Call:
    """One call.

    Raises:
        ValueError: it is none, of no function that there is, or with other arguments.
    """
    if not isinstance(node, ast.Call) or node.args:
        raise ValueError("this is no call with named arguments")
    name = ast.unparse(node.func)
    if name not in names:
        raise ValueError("there is no such function")
    arguments: dict[str, Any] = {}
    for one in node.keywords:
        if one.arg is None or one.arg in arguments:
            raise ValueError("an argument has no name of its own")
        arguments[one.arg] = _value(one.value)
    return Call(name, json.dumps(arguments, ensure_ascii=False))


def _value(node: ast.expr) -> Any:
    """A literal as a value of JSON.

    Raises:
        ValueError: JSON has no such value.
        TypeError: a key is no text.
    """
    match node:
        case ast.Constant(str() | bool() | int() | None as value):
            return value
        case ast.Constant(float() as value) if math.isfinite(value):
            return value
        case ast.Name(name) if name in _CONSTANTS:
            return _CONSTANTS[name]
        case ast.List(items) | ast.Tuple(items):
            return [_value(one) for one in items]
        case ast.Dict(keys, values):
            found = {}
            for key, item in zip(keys, values, strict=True):
                if not isinstance(key, ast.Constant) or not isinstance(key.value, str):
                    raise TypeError("a key is no text")
                found[key.value] = _value(item)
            return found
        case ast.UnaryOp(ast.USub(), ast.Constant(int() | float() as value)):
            if isinstance(value, bool) or not math.isfinite(value):
                raise ValueError("this is no number")
            return -value
    raise ValueError("this is no literal")

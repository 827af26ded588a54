"""Types from text, and the check that an operator refuses them with certain words."""

from __future__ import annotations

import pytest

from graphopt.errors import VerifyError
from graphopt.ir.graph import Attr
from graphopt.ir.ops import infer_types
from graphopt.ir.parser import parse_type
from graphopt.ir.types import Type


def types_of(text: str) -> tuple[Type, ...]:
    """``f32[T, 4]; i64[T]`` as types."""
    return tuple(parse_type(part) for part in text.split(";") if part.strip())


def inferred(op: str, text: str, **attrs: Attr) -> str:
    """What inference makes of the types, as text."""
    return "; ".join(map(str, infer_types(op, types_of(text), attrs)))


def refused(op: str, text: str, words: str, **attrs: Attr) -> None:
    with pytest.raises(VerifyError, match=words) as caught:
        infer_types(op, types_of(text), attrs)
    assert caught.value.what.startswith(f"{op}: ")
    assert caught.value.where

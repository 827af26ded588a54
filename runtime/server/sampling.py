"""From a request's fields to sampling parameters, and to the plain data that the engine is sent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from ..constraint import Constraint
from ..sampling_params import SamplingParams
from ..words import Words
from .constraints import constraint_of
from .http_errors import refuse, unsupported
from .protocol.common import SamplingFields
from .settings import Limits

# Fields that are called alike in a request and in SamplingParams.
_SAME = (
    "max_tokens",
    "min_tokens",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "n",
    "stop",
    "stop_token_ids",
    "logit_bias",
    "allowed_token_ids",
    "ignore_eos",
    "skip_special_tokens",
    "include_stop_str_in_output",
    "prompt_logprobs",
)
# What the HTTP process does itself.
_NOT_SENT = frozenset(("stop", "skip_special_tokens", "include_stop_str_in_output"))


def sampling_params(
    body: SamplingFields, words: Words, limits: Limits, **overrides: Any
) -> SamplingParams:
    """The model's defaults, the request's fields on top of them, and ``overrides`` on top of those.

    Raises:
        ApiError: a limit is exceeded, or a field is not supported.
        RequestError: a value makes no sense.
    """
    check_limits(body, limits)
    values = {name: getattr(body, name) for name in _SAME}
    values = {name: value for name, value in values.items() if value is not None}
    if body.seed is not None:
        values["seed"] = body.seed % 2**64
    constraint = constraint_of(body)
    if constraint is not None:
        values["constraint"] = constraint
    values.update(overrides)
    if values.get("stop") and words.tokenizer is None:
        raise unsupported("stop", "the model has no tokenizer; use stop_token_ids")
    return words.sampling_params(**values)


def check_limits(body: SamplingFields, limits: Limits) -> None:
    """Refuse a request that asks for more than the operator allows.

    Raises:
        ApiError: it does; the limit is named.
    """
    at_most("n", body.n or 1, limits.max_n)
    at_most("prompt_logprobs", body.prompt_logprobs or 0, limits.max_logprobs)
    at_most("logit_bias", len(body.logit_bias or ()), limits.max_logit_bias, "tokens")
    at_most("stop_token_ids", len(body.stop_token_ids or ()), limits.max_logit_bias, "tokens")
    stops = [body.stop] if isinstance(body.stop, str) else body.stop or []
    at_most("stop", len(stops), limits.max_stop_strings, "strings")
    at_most("stop", max(map(len, stops), default=0), limits.max_stop_chars, "characters")


def at_most(name: str, value: int, most: int, unit: str = "") -> None:
    """Refuse more than ``most``.

    Raises:
        ApiError: it is more.
    """
    if value > most:
        raise refuse(f"{name} may have at most {most} {unit}".rstrip(), name, "over_limit")


def wire_params(params: SamplingParams) -> Mapping[str, Any]:
    """What the engine is told: fields that differ from their defaults, as plain data."""
    found: dict[str, Any] = {}
    for one in fields(SamplingParams):
        value = getattr(params, one.name)
        if one.name in _NOT_SENT or value == one.default:
            continue
        found[one.name] = value.plain if isinstance(value, Constraint) else value
    return found

"""Rotary frequencies that depend on the longest sequence of a batch: decided once, for all.

transformers picks the frequencies of ``longrope`` and ``dynamic`` by the largest position in the
whole batch. In a packed batch a short sequence would then change because a long one stands beside
it. Up to a certain length the choice is the same for every sequence; so the context is limited to
that length, and the frequencies are fixed to those that hold there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import nn
from transformers import PretrainedConfig

from graphopt.errors import UnsupportedError

# Types whose frequencies are set when the model is built and never change.
_FIXED = frozenset({"default", "linear", "yarn", "llama3", "proportional", "axial"})
_LENGTHS = (
    "max_position_embeddings",
    "n_positions",
    "max_seq_len",
    "context_length",
    "model_max_length",
    "n_ctx",
    "seq_length",
    "max_sequence_length",
)


@dataclass(frozen=True, slots=True)
class ContextLimit:
    """How many tokens a sequence may have, and why no more."""

    tokens: int
    reason: str


def longest_context(config: PretrainedConfig) -> int | None:
    """How many tokens the model was made for, by its configuration; None if it does not say."""
    for name in _LENGTHS:
        value = getattr(config, name, None)
        if isinstance(value, int) and value > 0:
            return value
    return None


def rotary_limit(config: PretrainedConfig) -> ContextLimit | None:
    """The length up to which all sequences have the same rotary frequencies; None: any length.

    Raises:
        UnsupportedError: a rotary type that we do not know.
    """
    limits = []
    for where, parameters in _rotary_parameters(config):
        kind = parameters.get("rope_type", parameters.get("type", "default"))
        if kind in _FIXED:
            continue
        if kind not in ("longrope", "dynamic"):
            raise UnsupportedError(
                "the model's rotary embedding is of a type that graphopt does not know",
                where=where,
                got=kind,
                expected=", ".join(sorted(_FIXED | {"longrope", "dynamic"})),
            )
        limits.append(_limit_of(str(kind), parameters, config, where))
    return min(limits, key=lambda limit: limit.tokens, default=None)


def fix_frequencies(model: nn.Module) -> None:
    """Makes every rotary module of ``model`` keep the frequencies it was built with.

    Touches only the type that a module remembers; transformers consults it on each forward pass
    to decide whether to recompute.
    """
    for module in model.modules():
        kind = getattr(module, "rope_type", None)
        if isinstance(kind, str) and kind not in _FIXED:
            module.rope_type = "default"  # type: ignore[assignment]
        elif isinstance(kind, dict):
            module.rope_type = {  # type: ignore[assignment]
                layer: "default" if name not in _FIXED else name for layer, name in kind.items()
            }


def fix_temperature(model: nn.Module) -> ContextLimit | None:
    """Turns off a scale of the queries that counts tokens in the batch, where it is 1.

    Layers with ``attn_temperature_tuning`` scale a query by its place in the *batch*, by steps of
    ``floor_scale`` tokens. Before the first step the scale is exactly 1.

    Returns:
        The length up to which that holds, or None if no layer does so.
    """
    steps = []
    for module in model.modules():
        step = getattr(module, "floor_scale", None)
        if getattr(module, "attn_temperature_tuning", False) and isinstance(step, int | float):
            module.attn_temperature_tuning = False  # type: ignore[assignment]
            steps.append(int(step))
    if not steps:
        return None
    return ContextLimit(min(steps) - 1, "attention temperature tuning counts tokens of the batch")


def _limit_of(
    kind: str, parameters: Mapping[str, object], config: PretrainedConfig, where: str
) -> ContextLimit:
    if kind == "dynamic":
        tokens = getattr(config, "max_position_embeddings", None)
        what = "dynamic NTK frequencies grow with the longest sequence of the batch beyond it"
    else:
        tokens = parameters.get("original_max_position_embeddings")
        tokens = tokens or getattr(config, "original_max_position_embeddings", None)
        what = "longrope switches every sequence of a batch to its long factors beyond it"
    if not isinstance(tokens, int) or tokens < 1:
        raise UnsupportedError(
            f"{kind} rotary embedding without the length at which it changes",
            where=where,
            got=dict(parameters),
            expected="original_max_position_embeddings",
        )
    return ContextLimit(tokens, what)


def _rotary_parameters(config: PretrainedConfig) -> Iterator[tuple[str, Mapping[str, object]]]:
    """Every set of rotary parameters in a configuration, also those for one type of layer."""
    given = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None)
    if not isinstance(given, Mapping):
        return
    nested = {key: value for key, value in given.items() if isinstance(value, Mapping)}
    if nested:
        for key, value in nested.items():
            yield f"rope_parameters.{key}", value
    else:
        yield "rope_parameters", given

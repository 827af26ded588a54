"""Trace a decoder, and prove the trace on a small twin of the model before anyone relies on it.

before:  a configuration
after:   a graph from a packed step of tokens to logits, or to the rows that become vectors, that
         agrees with transformers, as traced and after the passes, and the longest context for
         which it does

    traced = trace(config, dtype=DType.BF16, max_model_len=None)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from transformers import PretrainedConfig, PreTrainedModel

from graphopt.config import GENERATE
from graphopt.errors import UnsupportedError, UsageError
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph

from .hf import Decoder, trace_decoder
from .rope import ContextLimit, longest_context
from .skeleton import text_config
from .twin import prove

# What a sequence may hold where the configuration names no limit.
_DEFAULT_CONTEXT = 4096


@dataclass(frozen=True, slots=True)
class Traced:
    """A traced model.

    Attributes:
        graph: the graph; its weights have the names of the model's parameters and buffers.
        max_model_len: most tokens that a sequence may have.
        constants: values of the graph's weights that the model computes itself, by name.
        model: the model, parameters on meta, for binding a checkpoint by name.
        scalars: those of the constants that have no dimensions and no checkpoint stores.
        notes: what a user should know, one sentence each.
        vocabulary: how many tokens the model knows.
    """

    graph: Graph
    max_model_len: int
    constants: Mapping[str, torch.Tensor]
    model: PreTrainedModel
    scalars: Mapping[str, float | int]
    notes: tuple[str, ...]
    vocabulary: int

    @property
    def weights(self) -> frozenset[str]:
        """Names of the weights that the graph uses."""
        return frozenset(value.name for value in self.graph.weights)


def trace(
    config: PretrainedConfig,
    *,
    dtype: DType,
    task: str = GENERATE,
    max_model_len: int | None = None,
    allow_unproven: bool = False,
    rewrite: Callable[[Decoder], Graph] | None = None,
) -> Traced:
    """Traces the model that ``config`` describes, without its weights.

    Args:
        config: transformers' configuration of the model.
        dtype: element type of weights and activations.
        task: what it is for, ``generate`` or ``embed``.
        max_model_len: most tokens that a sequence may have; None for the model's own limit.
        allow_unproven: accept a model of which no small twin could be compared with transformers.
        rewrite: the passes; what they make of the twin's graph is compared too.

    Raises:
        UnsupportedError: the model is of a kind that graphopt does not compile, or disagrees.
        CompileError: the passes change what the twin computes.
        TraceError: its code has no single graph.
        UsageError: ``max_model_len`` is more than the model can have.
    """
    decoder = trace_decoder(config, dtype, task)
    longest, notes = _context(config, decoder.limit, max_model_len)
    proof = prove(config, decoder, allow_unproven=allow_unproven, rewrite=rewrite)
    return Traced(
        decoder.graph,
        longest,
        decoder.constants,
        decoder.model,
        decoder.scalars,
        (*notes, *decoder.doubts, *_padding(decoder), *proof.notes),
        decoder.vocabulary,
    )


def _padding(decoder: Decoder) -> tuple[str, ...]:
    if decoder.uncounted is None:
        return ()
    return (
        f"token {decoder.uncounted}, which is padding, takes a position like any other token; in "
        "transformers it takes none",
    )


def _context(
    config: PretrainedConfig, limit: ContextLimit | None, wanted: int | None
) -> tuple[int, tuple[str, ...]]:
    """How long a sequence may be, and what to say about it.

    Raises:
        UnsupportedError: more is wanted than holds for every sequence alike.
        UsageError: more is wanted than the model has positions.
    """
    own = longest_context(text_config(config))
    if limit is not None:
        if wanted is not None and wanted > limit.tokens:
            raise UnsupportedError(
                f"a context of {wanted} tokens is not supported for this model",
                got=limit.reason,
                expected=f"max_model_len of at most {limit.tokens}",
                next=f"pass --max-model-len {limit.tokens}, or leave it out",
            )
        if own is None or limit.tokens < own:
            chosen = limit.tokens if wanted is None else wanted
            return chosen, (f"context limited to {limit.tokens} tokens: {limit.reason}",)
    if own is not None and wanted is not None and wanted > own:
        raise UsageError(
            "max_model_len is more than the model was made for",
            got=wanted,
            expected=f"at most {own}, from config.json",
        )
    if wanted is not None:
        return wanted, ()
    if own is not None:
        return own, ()
    return _DEFAULT_CONTEXT, (
        f"config.json names no longest context: {_DEFAULT_CONTEXT} tokens are assumed",
    )

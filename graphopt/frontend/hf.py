"""Trace any decoder of transformers into one graph of the IR, or say why not.

before:  a configuration, and what the model is for
after:   a graph that keeps sequences apart, from a packed step of tokens to logits, or to the rows
         of the last layer where a text becomes a vector

Whether its numbers are those of transformers is for ``trace`` to show.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PretrainedConfig, PreTrainedModel

from graphopt.config import EMBED, GENERATE
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph
from graphopt.ir.types import TensorType
from graphopt.ir.verify import verify

from . import gates
from .export import export
from .importer import import_program
from .locality import check_locality
from .positions import first_position, table_limit
from .rope import (
    ContextLimit,
    fix_frequencies,
    fix_temperature,
    rotary_limit,
)
from .skeleton import build, refuse_other_kinds, text_config
from .unbatch import unbatch


@dataclass(frozen=True, slots=True)
class Decoder:
    """A traced model before it is proven: what the real one and its twin have in common.

    Attributes:
        graph: the graph; its weights have the names of the model's parameters and buffers.
        constants: values of the graph's weights that the model computes itself, by name.
        model: the model, parameters on meta, for binding a checkpoint by name.
        limit: up to which length every sequence gets the same rotation; None if up to any.
        doubts: what could not be checked, one sentence each.
        task: what the model is for, ``generate`` or ``embed``.
    """

    graph: Graph
    constants: Mapping[str, torch.Tensor]
    model: PreTrainedModel
    limit: ContextLimit | None
    doubts: tuple[str, ...]
    task: str = GENERATE

    @property
    def vocabulary(self) -> int:
        """How many tokens there are: logits in a row, or tokens that have an embedding."""
        if self.task == EMBED:
            table: Any = self.model.get_input_embeddings()
            return int(table.weight.shape[0])
        type_ = self.graph.outputs[0].type
        size = type_.shape[1] if isinstance(type_, TensorType) else None
        return size if isinstance(size, int) else 1

    @property
    def uncounted(self) -> int | None:
        """The padding token of a model that gives it no position, which a packed step does."""
        padding = getattr(text_config(self.model.config), "pad_token_id", None)
        return padding if first_position(self.model) and isinstance(padding, int) else None

    @property
    def scalars(self) -> dict[str, float | int]:
        """Values without dimensions that the model computes itself and no checkpoint stores."""
        stored = self.model.state_dict()
        own = {name: tensor for name, tensor in self.constants.items() if name not in stored}
        return {name: tensor.item() for name, tensor in own.items() if tensor.ndim == 0}


def trace_decoder(config: PretrainedConfig, dtype: DType, task: str = GENERATE) -> Decoder:
    """Builds, exports, imports and checks a model, everything but the comparison of numbers.

    Raises:
        UnsupportedError: the model is of a kind that graphopt does not compile.
        TraceError: its code has no single graph.
    """
    refuse_other_kinds(config, task)
    text = text_config(config)
    rotary = rotary_limit(text)
    model = build(config, dtype, task)
    fix_frequencies(model)
    temperature = fix_temperature(model)
    exported = export(model, task)
    gates.check_bounds(exported)
    imported = import_program(exported, _graph_name(config))
    graph = unbatch(imported.graph)
    verify(graph)
    doubts = gates.check_attention(graph, imported.attentions, text)
    gates.check_rows(graph)
    if task != EMBED:
        gates.check_causal(graph, text.model_type)
    check_locality(graph)
    chunk, table = gates.chunk_limit(imported.attentions), table_limit(model)
    found = (rotary, temperature, chunk, table)
    limit = min((one for one in found if one), key=lambda one: one.tokens, default=None)
    return Decoder(graph, imported.constants, model, limit, doubts, task)


def _graph_name(config: PretrainedConfig) -> str:
    name = config.model_type or "decoder"
    return "".join(letter if letter.isalnum() else "_" for letter in name)

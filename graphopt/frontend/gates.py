"""What a traced decoder must look like, before anything is computed with it.

Each gate stops an error that would otherwise be silent. Some are doubts rather than refusals: a
model may call attention twice a layer and be right. Doubts are settled by the twin (twin.py); where
there is none, they refuse the model.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from transformers import PretrainedConfig

from graphopt.errors import TraceError, UnsupportedError
from graphopt.ir.graph import Graph
from graphopt.ir.types import StateType, TensorType

from .export import Exported
from .importer import AttentionCall
from .rope import ContextLimit

_ENDLESS = 1 << 40


def check_bounds(exported: Exported) -> None:
    """Demands that the graph holds for any number of tokens and rows.

    Raises:
        TraceError: the model's code assumed a bound.
    """
    for symbol, bounds in exported.program.range_constraints.items():
        if bounds.upper < _ENDLESS:
            raise TraceError(
                "the model's code bounds the number of tokens in a step",
                got=f"at most {bounds.upper} ({symbol})",
                expected="a graph that holds for any number",
                next="a table of positions that grows with the batch is a common cause",
            )


def check_attention(
    graph: Graph, attentions: Sequence[AttentionCall], config: PretrainedConfig
) -> tuple[str, ...]:
    """Demands attention that sees positions; gives the doubts that are left.

    Raises:
        UnsupportedError: there is no attention.
    """
    name = config.model_type
    if not attentions:
        raise UnsupportedError(
            f"{name} calls no attention that graphopt knows",
            got="0 attention operators in the traced graph",
            expected="layers that take their attention from transformers' AttentionInterface",
            next="families that write it out need an entry in graphopt/frontend/legacy.py",
        )
    doubts = []
    layers = getattr(config, "num_hidden_layers", None)
    if isinstance(layers, int) and layers != len(attentions):
        doubts.append(f"{len(attentions)} attention calls in {layers} layers")
    repeated = [index for index, n in Counter(a.layer for a in attentions).items() if n > 1]
    if repeated and repeated != [-1]:
        doubts.append(f"layer {repeated[0]} calls attention more than once")
    positions = graph.input("positions")
    if positions not in graph.users and not any(call.alibi for call in attentions):
        doubts.append("positions are not used: the order of tokens shows in attention only")
    return tuple(doubts)


def chunk_limit(attentions: Sequence[AttentionCall]) -> ContextLimit | None:
    """The length up to which chunked attention sees everything, as ours does."""
    chunks = [call.chunk for call in attentions if call.chunk]
    if not chunks:
        return None
    return ContextLimit(min(chunks), "chunked attention forgets earlier chunks beyond it")


def check_rows(graph: Graph) -> None:
    """Demands one row, of logits or of the last layer, for each row that is asked for.

    Raises:
        TraceError: the output has another shape.
    """
    type_ = graph.outputs[0].type
    rows = graph.input("rows").type
    if (
        not isinstance(type_, TensorType)
        or not isinstance(rows, TensorType)
        or len(type_.shape) != 2
        or type_.shape[0] != rows.shape[0]
        or not isinstance(type_.shape[1], int)
    ):
        raise TraceError(
            "the model does not give a row for each token", got=type_, expected="float[R, N]"
        )


def check_causal(graph: Graph, name: str) -> None:
    """Demands that no token sees what comes after it, since what comes next is asked for.

    Raises:
        UnsupportedError: one does.
    """
    if any(value.name == "reaches" for value in graph.inputs):
        raise UnsupportedError(
            f"{name} is an encoder: its tokens see what comes after them",
            got="attention that is not causal",
            expected="a decoder",
            next="pass --task embed to turn texts into vectors with it",
        )


def coverage(graph: Graph) -> frozenset[tuple[str, ...]]:
    """The kinds of computation in a graph: operators by module path without numbers, with flags.

    A twin that covers fewer kinds than the model proves nothing about the rest.
    """
    found: set[tuple[str, ...]] = set()
    for node in graph.nodes:
        path = re.sub(r"\.\d+(?=\.|$)", ".*", node.loc.module) if node.loc is not None else ""
        flags: tuple[str, ...] = ()
        if node.op == "attention":
            window, softcap = node.attrs["window"], node.attrs["softcap"]
            named = {
                "window": window,
                "softcap": softcap,
                "sinks": node.attrs["sinks"],
                "alibi": node.attrs["alibi"],
                "reach": node.attrs["reach"],
            }
            flags = tuple(key for key, value in named.items() if value)
        if node.op in ("attention", "linear", "moe_experts", "softmax", "rsqrt", "cos", "topk"):
            found.add((path, node.op, *flags))
    return frozenset(found)


def state_of(graph: Graph) -> StateType:
    """The type of the graph's memory of keys and values."""
    type_ = graph.input("kv").type
    if not isinstance(type_, StateType):
        raise TraceError("the graph has no memory of keys and values", got=type_)
    return type_

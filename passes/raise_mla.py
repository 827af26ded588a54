"""Keep one latent a token instead of every head's keys and values (multi-head latent attention).

before:  %up = linear(%latent, @kv_b)                      heads of [own keys | values]
         %k  = concat(own keys of %up, expand(%shared))    the shared part is rotated, of one head
         %s  = kv_write(%kv, %k, values of %up, %slots);  %o = attention(%q, %s, ...)
after:   %s  = latent_write(%kv, concat(%latent, %shared), %slots)
         %o  = attention(concat(%q_own @ w_k, %q_shared), %s, ...) @ w_v

where w_k and w_v are the heads' slices of @kv_b. A head's score is q . (w_k latent) = (q w_k) .
latent, and its result is the weighted sum of w_v latent, so w_k can move to the queries and w_v to
the result: all heads then read the same key, [latent | shared], whose first part is the value
(DeepSeek-V2, section 2.1.2). Memory falls from heads * (key + value) numbers a token and layer to
rank + shared. A decode reads that much less; a long prefill computes more, as keys are longer.

Where data only moves (columns.py) it is looked through, so neither the order of the parts nor the
way they were split and transposed matters. A graph has one state, so it is all layers or none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from graphopt.ir.builder import Rewriter
from graphopt.ir.graph import Graph, Node, SourceLocation, Value
from graphopt.ir.ops_spec import int_of, ints_of
from graphopt.ir.shape import Dim
from graphopt.ir.types import LayerState, StateType, TensorType
from graphopt.ledger import Verdict, accept, refuse
from graphopt.region import state_root

from .columns import I64, ZERO, Columns
from .manager import PassContext, PassResult, place_of


@dataclass(frozen=True, slots=True)
class _Projection:
    """A linear of the latent, and the rows of its weight that make ``size`` columns of each head.

    Attributes:
        latent: what it projects.
        weight: ``[N, rank]``.
        base: the first row of the heads' rows, which lie ``stride`` apart.
        stride: rows from one head to the next.
        start: the first wanted row of a head, from the head's first.
        size: wanted rows of a head.
        heads: how many.
    """

    latent: Value
    weight: Value
    base: int
    stride: int
    start: int
    size: int
    heads: int

    @property
    def rank(self) -> int:
        """Numbers in the latent."""
        return _sizes(self.weight)[1]


@dataclass(frozen=True, slots=True)
class _Layer:
    """What a layer's keys and values are made of.

    Attributes:
        write: the write of its keys and values.
        keys: makes the part of the keys that each head has of its own.
        values: makes the values.
        shared: the part of the keys that all heads share.
        own: the columns of the keys that are the head's own, as start and end.
        common: the columns that are shared, as start and end.
    """

    write: Node
    keys: _Projection
    values: _Projection
    shared: Value
    own: tuple[int, int]
    common: tuple[int, int]

    @property
    def number(self) -> int:
        """The layer of the state."""
        return int_of(self.write.attrs, "layer")

    def state(self, before: LayerState) -> LayerState:
        """What the layer keeps of a token, where it kept ``before``."""
        size = self.keys.rank + self.common[1] - self.common[0]
        return LayerState(1, size, self.keys.rank, before.dtype, before.window)


class RaiseMla:
    """The pass."""

    name = "raise-mla"
    requires: frozenset[str] = frozenset()
    ensures: frozenset[str] = frozenset()

    def __call__(self, graph: Graph, context: PassContext) -> PassResult:
        """The graph with a latent state, if every layer's keys and values come from a latent."""
        writes = graph.nodes_named("kv_write")
        columns = Columns(graph, _tokens(writes[0].inputs[3]) if writes else 0)
        found = [_layer(graph, columns, node) for node in writes]
        if all(one is None for one in found):
            return PassResult(graph, False)
        layers: list[_Layer] = []
        for node, one in zip(writes, found, strict=True):
            if isinstance(one, _Layer):
                layers.append(one)
                continue
            alien = refuse("its heads share no part of their keys, those of others do", node)
            context.decide(self.name, place_of(node), one or alien)
        if len(layers) != len(writes):
            return PassResult(graph, False)
        state = state_root(graph, writes[0].inputs[0])
        latent = _latent(state, layers)
        verdict = _may_change(graph, state, latent, layers)
        if not context.decide(self.name, str(state), verdict) or latent is None:
            return PassResult(graph, False)
        return PassResult(_rewritten(graph, state, latent, layers), True)


def _layer(graph: Graph, columns: Columns, write: Node) -> _Layer | Verdict | None:
    """What keys and values of a layer are made of, a refusal, or None for keys of another kind."""
    tables = [columns.of(value) for value in write.inputs[1:3]]
    keys, values = (None if table is None else table[0] for table in tables)  # [H, D]
    if keys is None or values is None or len(keys) == 1:
        return None
    shared = (keys == keys[0]).all(axis=0)
    if not shared.any():
        return None
    own, common = _span(~shared), _span(shared)
    if own is None or common is None:
        return refuse(
            "the keys are not one part of the head's own beside one that all heads share",
            write.inputs[1],
        )
    up = _projection(graph, columns, write.inputs[1], keys[:, own[0] : own[1]])
    if isinstance(up, Verdict):
        return up
    zeros = (values == ZERO).all(axis=0)
    kept = values[:, : len(zeros) - int(np.argmin(zeros[::-1]))]
    down = _projection(graph, columns, write.inputs[2], kept)
    if isinstance(down, Verdict):
        return down
    one, other = columns.rows(up.latent), columns.rows(down.latent)
    if one is None or other is None or not np.array_equal(one, other):
        return refuse("keys and values are not made from the same latent", up.latent, down.latent)
    wanted = keys[0, common[0] : common[1]]
    for value in columns.origins(write.inputs[1]):
        found = columns.rows(value)
        if found is not None and np.array_equal(found, wanted):
            return _Layer(write, up, down, value, own, common)
    return refuse("no value is the part of the keys that heads share", write.inputs[1])


def _projection(graph: Graph, columns: Columns, value: Value, wanted: I64) -> _Projection | Verdict:
    """What makes ``wanted[H, n]``, columns of ``value``: a linear whose rows lie evenly."""
    found = columns.source(wanted)
    if found is None:
        return refuse("a head's keys or values are put together from several values", value)
    source, rows = found
    node = graph.producers.get(source)
    if node is None or node.op != "linear" or len(node.inputs) != 2:
        what = "no node" if node is None else node.op
        bias = " with a bias" if node is not None and len(node.inputs) == 3 else ""
        return refuse(f"made by {what}{bias}, not by a linear of a latent without a bias", source)
    latent, weight = node.inputs
    heads, size = wanted.shape
    total, rank = _sizes(weight)
    found_latent = columns.rows(latent)
    if found_latent is None or len(found_latent) != rank:
        return refuse("the latent is not one row a token", latent)
    stride = int(rows[1, 0] - rows[0, 0])
    even = rows[0, 0] + stride * np.arange(heads)[:, None] + np.arange(size)
    base = min(int(rows[0, 0]), total - heads * stride)
    start = int(rows[0, 0]) - base
    if not np.array_equal(rows, even) or base < 0 or start + size > stride:
        return refuse("the rows of the heads do not lie evenly in the weight", weight)
    return _Projection(latent, weight, base, stride, start, size, heads)


def _latent(state: Value, layers: Sequence[_Layer]) -> StateType | None:
    """What takes the place of ``state``; None if ``layers`` are not its layers, each once."""
    by_number = {layer.number: layer for layer in layers}
    kept = state.type.layers if isinstance(state.type, StateType) else ()
    if len(layers) != len(kept) or set(by_number) != set(range(len(kept))):
        return None
    return StateType("latent", tuple(by_number[i].state(old) for i, old in enumerate(kept)))


def _may_change(
    graph: Graph, state: Value, after: StateType | None, layers: Sequence[_Layer]
) -> Verdict:
    """Whether all that reads ``state`` can read latents, and memory is saved."""
    if after is None or not isinstance(state.type, StateType):
        return refuse("some of its layers are not written, or written twice", state)
    heads = {layer.number: layer.keys.heads for layer in layers}
    for node in graph.nodes:
        if node.op == "kv_write" or not any(_is_state(value) for value in node.inputs):
            continue
        if node.op != "attention":
            return refuse(f"it is read by {node.op}, which knows no latents", node.output)
        if _sizes(node.inputs[0])[1] != heads[int_of(node.attrs, "layer")]:
            return refuse("queries have other heads than the keys they are for", node.inputs[0])
    old, new = state.type.bytes_per_token, after.bytes_per_token
    if new >= old:
        return refuse(f"latents would take {new:,} bytes a token, keys and values take {old:,}")
    return accept(
        f"keeps {new:,} bytes of each token instead of {old:,}: in each of {len(after.layers)} "
        "layers a latent and the part of the keys that all heads share",
        saves_bytes=old - new,
    )


def _rewritten(graph: Graph, state: Value, latent: StateType, layers: Sequence[_Layer]) -> Graph:
    rewriter = Rewriter(graph, retyped={state: latent})
    by_number = {layer.number: layer for layer in layers}
    weights: dict[int, tuple[Value, Value]] = {}
    for node in graph.nodes:
        if node.op not in ("kv_write", "attention"):
            rewriter.copy(node)
            continue
        layer = by_number[int_of(node.attrs, "layer")]
        if node.op == "kv_write":
            _write(rewriter, node, layer)
            continue
        if layer.number not in weights:
            weights[layer.number] = _weights(rewriter, layer)
        _attend(rewriter, node, layer, *weights[layer.number])
    return rewriter.finish()


def _write(rewriter: Rewriter, node: Node, layer: _Layer) -> None:
    memory, _, _, slots = node.inputs
    parts = [
        rewriter.one("reshape", [value], {"shape": (_tokens(slots), 1, size)}, loc=node.loc)
        for value, size in (
            (layer.keys.latent, layer.keys.rank),
            (layer.shared, layer.common[1] - layer.common[0]),
        )
    ]
    key = rewriter.one("concat", parts, {"dim": 2}, loc=node.loc)
    new = rewriter.one("latent_write", [memory, key, slots], node.attrs, loc=node.loc)
    rewriter.replace(node.output, new)


def _weights(rewriter: Rewriter, layer: _Layer) -> tuple[Value, Value]:
    """What queries are multiplied with, ``[H, own, rank]``, and results, ``[H, rank, value]``."""
    loc = layer.write.loc
    heads: dict[tuple[Value, int, int], Value] = {}
    parts: list[Value] = []
    for made in (layer.keys, layer.values):
        place = (made.weight, made.base, made.stride)
        if place not in heads:
            end = made.base + made.heads * made.stride
            rows = rewriter.one("slice", [made.weight], _slice(0, made.base, end), loc=loc)
            shape = (made.heads, made.stride, made.rank)
            heads[place] = rewriter.one("reshape", [rows], {"shape": shape}, loc=loc)
        attrs = _slice(1, made.start, made.start + made.size)
        parts.append(rewriter.one("slice", [heads[place]], attrs, loc=loc))
    return parts[0], rewriter.one("permute", [parts[1]], {"dims": (0, 2, 1)}, loc=loc)


def _attend(
    rewriter: Rewriter, node: Node, layer: _Layer, key_weight: Value, value_weight: Value
) -> None:
    query, *rest = node.inputs
    loc = node.loc
    own = _part(rewriter, query, 2, *layer.own, loc)
    common = _part(rewriter, query, 2, *layer.common, loc)
    absorbed = _by_head(rewriter, own, key_weight, loc)
    inputs = [rewriter.one("concat", [absorbed, common], {"dim": 2}, loc=loc), *rest]
    mixed = rewriter.one("attention", inputs, node.attrs, loc=loc)
    out = _by_head(rewriter, mixed, value_weight, loc)
    missing = _sizes(node.output)[2] - layer.values.size
    if missing:
        out = rewriter.one("pad_constant", [out], {"pads": (0, missing)}, loc=loc)
    rewriter.replace(node.output, out)


def _by_head(rewriter: Rewriter, rows: Value, weight: Value, loc: SourceLocation | None) -> Value:
    """``rows[T, H, a]`` times ``weight[H, a, b]``, head by head: ``[T, H, b]``."""
    turned = rewriter.one("permute", [rows], {"dims": (1, 0, 2)}, loc=loc)
    product = rewriter.one("matmul", [turned, weight], loc=loc)
    return rewriter.one("permute", [product], {"dims": (1, 0, 2)}, loc=loc)


def _part(
    rewriter: Rewriter, value: Value, dim: int, start: int, end: int, loc: SourceLocation | None
) -> Value:
    """``value`` from ``start`` to ``end`` along ``dim``, from before it was joined to the rest."""
    node = rewriter.graph.producers.get(value)
    if node is not None and node.op == "permute":
        dims = ints_of(node.attrs, "dims")
        inner = _part(rewriter, node.inputs[0], dims[dim], start, end, loc)
        return rewriter.one("permute", [inner], node.attrs, loc=loc)
    if node is not None and node.op == "concat" and node.attrs["dim"] == dim:
        at = 0
        for part in node.inputs:
            size = _sizes(part)[dim]
            if (at, at + size) == (start, end):
                return part
            at += size
    return rewriter.one("slice", [value], _slice(dim, start, end), loc=loc)


def _slice(dim: int, start: int, end: int) -> Mapping[str, int]:
    return {"dim": dim, "start": start, "end": end}


def _span(mask: np.ndarray) -> tuple[int, int] | None:
    """Where ``mask`` is true, as start and end; None if nowhere or in several places."""
    (places,) = np.nonzero(mask)
    if len(places) == 0 or places[-1] - places[0] + 1 != len(places):
        return None
    return int(places[0]), int(places[-1]) + 1


def _tokens(slots: Value) -> Dim:
    return slots.type.shape[0] if isinstance(slots.type, TensorType) else 0


def _sizes(value: Value) -> tuple[int, ...]:
    """The shape of ``value``, with -1 for sizes that are not numbers."""
    shape = value.type.shape if isinstance(value.type, TensorType) else ()
    return tuple(size if isinstance(size, int) else -1 for size in shape)


def _is_state(value: Value) -> bool:
    return isinstance(value.type, StateType)

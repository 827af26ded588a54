"""Attention over pages of keys and values in Triton.

before:  a region with one ``attention``, and views of its queries
after:   a kernel of which a launch takes decodes and chunks of prompts alike: its grid depends on
         the sizes of the step, and its programs read on the device whose rows they have

Softmax is computed in float32, in powers of two, with the scale folded into their exponents. What a
user wrote about scores, or about which keys are seen, stands in the loop over keys as it is.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph, Node, Value
from graphopt.ir.ops_spec import bool_of, float_of, int_of, str_of
from graphopt.ir.ops_state import reaches_of, slopes_of
from graphopt.ir.shape import Dim, evaluate
from graphopt.ir.types import LayerState, StateType, TensorType
from graphopt.ledger import Verdict, refuse
from graphopt.region import Region

from ..render import render
from ..rows.access import Access
from ..rows.arguments import Kind, arguments
from ..rows.names import Names
from ..rows.program import comment
from ..rows.views import View, view_of
from .attention_tiles import (
    FEW_ROWS,
    Heads,
    Part,
    parts_of_size,
    tall_rows,
    variants_of,
    workspace_of,
)
from .expression import TYPES, Term, dim_text, triton_expression
from .functions import functions_for
from .kernel import TritonKernel, Variant, named_kernel
from .rows import buffer_of, sizes_of

_FLOATS = (DType.F32, DType.BF16, DType.F16)
# What keys and values may be kept in that products are not computed in.
_KEPT = (DType.F8E4M3, DType.F8E5M2, DType.I8)
_LOG2E = math.log2(math.e)
# A block of the state holds a multiple of so many tokens.
_BLOCK = 16
# Sequences that a program looks through at a time.
_SEARCH = 256
# What the template calls things.
_TAKEN = (
    "acc0 acc1 add_up all_steps arrived at attend base begin below block column compute count "
    "counter counters d0 d1 e e0 e1 end ends exists factor first found full_first full_last "
    "furthest head head_at higher highest inside is_part is_row is_value item items j k0 k0_at k1 "
    "k1_at k_at key keys kv_head last leader least length less lower lowest made member middle "
    "once out_at own owned p pace pace_of part parts parts_of passed pivot place position q0 "
    "q0_at q1 q1_at q_at record records row rows s score seen sequence sequence_at share shares "
    "sink slope slot spot start stat_at state stats steps stride sum_at summed sums table taken "
    "tile tiles token top tops total totals unit units upper v0 v0_at v1 v1_at values weight "
    "weights whole work_of workspace "
)


@dataclass(frozen=True, slots=True)
class _Program:
    """What a kernel is made of.

    Attributes:
        node: the attention.
        views: where its operands lie.
        heads: its sizes.
        variants: how it is cut.
        tall: rows from which on a tile has a loop of its own for keys that all rows see.
        deterministic: whether a row's sums depend on its position alone.
    """

    node: Node
    views: Mapping[Value, View]
    heads: Heads
    variants: tuple[Variant, ...]
    tall: int
    deterministic: bool = False


def attention_kernel(
    graph: Graph,
    region: Region,
    block_size: int,
    *,
    arch: int = 80,
    deterministic: bool = False,
) -> TritonKernel | Verdict:
    """The kernel of an attention region, or why there is none.

    Args:
        graph: what the region is of.
        region: one attention, and views of its operands.
        block_size: tokens in a block of the state.
        arch: the oldest GPU that the kernel is for, such as 90; newer ones take larger tiles.
        deterministic: whether what a row adds up, and in which order, may depend on nothing but
            its position: one tile for all steps, no splits, and one loop over all keys.
    """
    chosen = [graph.nodes[place] for place in region.nodes]
    node = next(node for node in chosen if node.op == "attention")
    if region.outputs != (node.output,):
        return refuse("it gives something else than what is attended to", *region.outputs)
    if block_size < _BLOCK or block_size % _BLOCK:
        return refuse(f"blocks of {block_size} tokens are no multiple of {_BLOCK}", node.inputs[1])
    layer, query = _layer(node), node.inputs[0]
    if layer.dtype not in (*_FLOATS, *_KEPT) or _dtype(query) not in _FLOATS:
        return refuse(f"no attention of {_dtype(query)} to {layer.dtype} is computed", query)
    if _memory(node).is_latent and layer.value_size > layer.key_size:
        return refuse("values are longer than the keys that hold them", node.inputs[1])
    views: dict[Value, View] = {}
    for value in (query, *node.inputs[2:]):
        view = view_of(graph, region, value)
        if view is None:
            return refuse("strides cannot say where an operand lies", value)
        views[value] = view
    if views[query].access.strides[-1] != 1 and layer.key_size != 1:
        return refuse("the entries of a query do not lie side by side", query)
    reaches = reaches_of(node)
    told = node.inputs[2:5] if reaches is None else (*node.inputs[2:5], reaches)
    for value in node.inputs[2:]:
        if value in told and views[value].operand != value:
            return refuse("sequences are told by a view of something else", value)
        if value not in told and _dtype(value) not in _FLOATS:
            return refuse(f"no attention with {_dtype(value)} for each head is computed", value)
    heads = _heads(node)
    variants = variants_of(heads, block_size, arch, deterministic=deterministic)
    both_ways = reaches is not None and int_of(node.attrs, "window") > 0
    tall = tall_rows(heads, arch, both_ways=both_ways)
    made = _Program(node, views, heads, variants, tall, deterministic)
    return _kernel(graph, region, made)


def _heads(node: Node) -> Heads:
    layer, memory, query = _layer(node), _memory(node), node.inputs[0]
    tokens, count, _ = _shape(query)
    return Heads(
        queries=evaluate(count, {}),
        keys=layer.heads,
        key_size=layer.key_size,
        value_size=layer.value_size,
        is_latent=memory.is_latent,
        dtype=_product_dtype(_dtype(query), layer.dtype),
        stored=layer.dtype,
        tokens=tokens,
        sequences=_shape(node.inputs[3])[0],
    )


def _product_dtype(query: DType, stored: DType) -> DType:
    """The narrowest type that products can be of without rounding an operand."""
    return query if stored in (query, *_KEPT) else DType.F32


def _kernel(graph: Graph, region: Region, made: _Program) -> TritonKernel:
    node, heads, variants = made.node, made.heads, made.variants
    names = Names(graph)
    for word in _TAKEN.split():
        names.fresh(word, number=False)
    given = arguments(graph, region)
    buffers = {one: buffer_of(one, names, heads.stored) for one in given}
    known = {one.value: buffer.name for one, buffer in buffers.items() if one.dtype is not None}
    states = {one.kind: buffer.name for one, buffer in buffers.items() if one.dtype is None}
    sizes = sizes_of(graph, region)
    room = workspace_of(heads, variants)
    pointers: list[DType | None] = [*(buffer.dtype for buffer in buffers.values()), None]
    body = render(
        "triton/attention_body.jinja",
        arguments=[*(buffer.name for buffer in buffers.values()), "workspace", *sizes],
        constants=list(variants[0].constants),
        room=room,
        search=_SEARCH,
        tall=made.tall,
        # No tile for few rows, nor loops without masks, where the order of a sum must not change.
        few=0 if made.deterministic else FEW_ROWS,
        **_operands(made, known, states),
        **_sizes(heads),
        **_scores(node, always_masked=made.deterministic),
    )
    text = render(
        "triton/attention.jinja",
        title=f"{region.name or region.family} of {region.scope or 'the model'}",
        comments=[
            line for place in region.nodes for line in comment(names.line(graph.nodes[place]), "#")
        ],
        libdevice="libdevice." in body,
        functions=functions_for(body),
        body=body,
    )
    title = region.name or region.family
    return named_kernel(title, text, pointers, sizes, variants, workspace=room.nbytes)


def _operands(
    made: _Program, known: Mapping[Value, str], states: Mapping[Kind, str]
) -> dict[str, object]:
    """What the template calls the memory that a kernel reads and writes."""
    node, views = made.node, made.views
    query, _, starts, lengths, tables = node.inputs[:5]
    rows = views[query].access
    sinks, slopes, reaches = bool_of(node.attrs, "sinks"), slopes_of(node), reaches_of(node)
    return {
        "query": _start(known, views[query]),
        "row_stride": _factor(rows, 0),
        "head_stride": _factor(rows, 1),
        "starts": known[starts],
        "lengths": known[lengths],
        "tables": known[tables],
        "sequences": dim_text(_shape(lengths)[0]),
        "table_row": dim_text(_shape(tables)[1]),
        "key_start": states[Kind.KEYS],
        "value_start": states[Kind.VALUES],
        "out": known[node.output],
        "out_type": TYPES[_dtype(node.output)],
        "sinks": _per_head(known, views[node.inputs[5]]) if sinks else "",
        "slopes": _per_head(known, views[slopes]) if slopes is not None else "",
        "has_slopes": slopes is not None,
        "reaches": known[reaches] if reaches is not None else "",
    }


def _sizes(heads: Heads) -> dict[str, object]:
    """What the template calls sizes."""
    keys, values = parts_of_size(heads.key_size), parts_of_size(heads.value_size)
    shared = [
        heads.is_latent
        and place < len(keys)
        and (keys[place].start, keys[place].size) == (one.start, one.size)
        and keys[place].is_padded == one.is_padded
        for place, one in enumerate(values)
    ]
    return {
        "keys": [_part(one, f"d{place}") for place, one in enumerate(keys)],
        "values": [
            {**_part(one, f"e{place}"), "shared": shared[place]} for place, one in enumerate(values)
        ],
        "latent": heads.is_latent,
        "heads": heads.queries,
        "kv_heads": heads.keys,
        "group": heads.group,
        "key_size": heads.key_size,
        "value_size": heads.value_size,
        "key_row": heads.keys * heads.key_size,
        "value_row": heads.keys * heads.value_size,
        "type": TYPES[heads.dtype],
        "precision": ', input_precision="ieee"' if heads.dtype is DType.F32 else "",
    }


def _part(part: Part, name: str) -> dict[str, object]:
    """A part of a key or a value as the template takes it."""
    inside = f"({name} < {part.whole})[None, :]" if part.is_padded else ""
    return {
        "places": part.places,
        "size": part.size,
        "bound": f" & {inside}" if inside else "",
        "mask": f", mask={inside}, other=0.0" if inside else "",
    }


def _scores(node: Node, *, always_masked: bool) -> dict[str, object]:
    """What becomes of a score, and which keys a row sees."""
    attrs = node.attrs
    scale, softcap = float_of(attrs, "scale"), float_of(attrs, "softcap")
    texts = [str_of(attrs, name) if name in attrs else "" for name in ("score", "mask")]
    operands = {
        "score": Term("score", "float"),
        "q": Term("q_at", "float"),
        "k": Term("k_at", "float"),
        "head": Term("head_at", "float"),
        "sequence": Term("sequence_at", "float"),
    }
    score, seen = (
        triton_expression(text, operands, DType.F32).within(7) if text else "" for text in texts
    )
    words = set(re.findall(r"\w+", f"{score} {seen}"))
    return {
        "score": score,
        "seen": seen,
        "always_masked": bool(score or seen or always_masked),
        "has_head": "head_at" in words,
        "has_sequence": "sequence_at" in words,
        "is_plain": scale > 0 and not softcap and not score and not bool_of(attrs, "alibi"),
        "scale": repr(scale),
        "scale_log2": repr(scale * _LOG2E),
        "softcap": softcap,
        "softcap_log2": repr(2 * _LOG2E / softcap) if softcap else "",
        "window": int_of(attrs, "window"),
        "log2e": repr(_LOG2E),
    }


def _memory(node: Node) -> StateType:
    type_ = node.inputs[1].type
    return type_ if isinstance(type_, StateType) else StateType("kv", ())


def _layer(node: Node) -> LayerState:
    return _memory(node).layers[int_of(node.attrs, "layer")]


def _dtype(value: Value) -> DType:
    return value.type.dtype if isinstance(value.type, TensorType) else DType.F64


def _shape(value: Value) -> tuple[Dim, ...]:
    return value.type.shape if isinstance(value.type, TensorType) else ()


def _start(known: Mapping[Value, str], view: View) -> str:
    """Where a view begins."""
    name, access = known[view.operand], view.access
    return name if access.offset == 0 else f"{name} + {dim_text(access.offset)}"


def _per_head(known: Mapping[Value, str], view: View) -> str:
    """Where the numbers of the heads ``head`` lie."""
    return f"{_start(known, view)} + head * {_factor(view.access, 0)}"


def _factor(access: Access, place: int) -> str:
    stride = access.strides[place]
    return str(stride) if isinstance(stride, int) else f"({dim_text(stride)})"

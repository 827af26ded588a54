"""Attention over pages of keys and values as kernels.

before:  a region with one ``attention``, and views of its queries
after:   a kernel that reads the queries where they lie, through strides

What sinks and ALiBi, and expressions that a user wrote, add to the scores becomes a structure with
a function for each; ``attention.h`` leaves out what a kernel does not have.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph, Node, Value
from graphopt.ir.ops_scores import MASK_NAMES, SCORE_NAMES
from graphopt.ir.ops_spec import bool_of, float_of, int_of, str_of
from graphopt.ir.ops_state import reaches_of, slopes_of
from graphopt.ir.types import LayerState, StateType, TensorType
from graphopt.ledger import Verdict, refuse
from graphopt.packing import Layout
from graphopt.region import Region

from ..render import render
from ..rows.access import Access
from ..rows.arguments import Kind, arguments
from ..rows.names import Names
from ..rows.program import comment
from ..rows.views import View, view_of
from .expression import CTYPES, Term, cpp_expression, dim_text, float_literal
from .kernel import Kernel, named_kernel
from .rows import buffer_of, pointer

HEADERS = ("attention.h",)
_FLOATS = (DType.F32, DType.BF16, DType.F16)
# As in attention_walk.h: rows of a tile, keys of a chunk; bits of a segment's number.
_ROWS, _KEYS, _LANES, _LEVELS = 64, 128, 16, 17
# As in attention_join.h: sums that a thread may have to keep, of which others take some.
_TAKEN_SUMS, _OWN_SUMS = 2 * _LEVELS + 1, _LEVELS + 2
# What the template calls things.
_TAKEN = ("shape", "queries", "batch", "additions", "attention")


@dataclass(frozen=True, slots=True)
class _PerHead:
    """A number a head that a kernel adds, to scores or to the sum of a softmax.

    Attributes:
        flag: the header's name for having it.
        function: the header's name for the function.
        field: the pointer to one number a head.
        view: where those numbers lie.
    """

    flag: str
    function: str
    field: str
    view: View

    def lines(self) -> list[str]:
        """Its members in C++."""
        place = _place(self.view.access)
        return [
            f"static constexpr bool {self.flag} = true;",
            f"const {CTYPES[_dtype(self.view.operand)]}* {self.field};",
            f"float {self.function}(int64_t head) const {{ "
            f"return to_float({self.field}[{place}]); }}",
        ]


def attention_kernel(
    graph: Graph, region: Region, layouts: Mapping[str, Layout]
) -> Kernel | Verdict:
    """The kernel of an attention region, or why there is none."""
    node = next(
        node for node in map(graph.nodes.__getitem__, region.nodes) if node.op == "attention"
    )
    if region.outputs != (node.output,):
        return refuse("it gives something else than what is attended to", *region.outputs)
    layer = _layer(node)
    query = node.inputs[0]
    if layer.dtype not in _FLOATS or _dtype(query) not in _FLOATS:
        return refuse(f"no attention of {_dtype(query)} to {layer.dtype} is computed", query)
    views: dict[Value, View] = {}
    for value in (query, *node.inputs[2:]):
        view = view_of(graph, region, value)
        if view is None:
            return refuse("strides cannot say where an operand lies", value)
        if view.operand.name in layouts:
            return refuse("a weight is packed for something else", view.operand)
        views[value] = view
    if views[query].access.strides[-1] != 1 and layer.key_size != 1:
        return refuse("the entries of a query do not lie side by side", query)
    reaches = reaches_of(node)
    for value in (*node.inputs[2:5], *([] if reaches is None else [reaches])):
        if views[value].operand != value:
            return refuse("sequences are told by a view of something else", value)
    return _kernel(graph, region, node, views)


def attention_scratch(key_size: int, value_size: int) -> int:
    """Bytes that each thread needs, as attention.h counts them."""
    key, value = (-(-size // _LANES) * _LANES for size in (key_size, value_size))
    left = -(-8 * (1 + _TAKEN_SUMS) // 64) * 64
    sums = (_TAKEN_SUMS + _OWN_SUMS) * (2 + value)
    return left + 4 * (_ROWS * (sums + 1 + key + 2 * _KEYS) + _KEYS * value)


def _kernel(graph: Graph, region: Region, node: Node, views: Mapping[Value, View]) -> Kernel:
    names = Names(graph)
    for word in _TAKEN:
        names.fresh(word, number=False)
    given = [one for one in arguments(graph, region) if one.kind is not Kind.VALUES]
    buffers = {one: buffer_of(one, names) for one in given}
    known = {one.value: buffer.name for one, buffer in buffers.items()}
    query, state, *tables = node.inputs[:5]
    layer, attrs, reaches = _layer(node), node.attrs, reaches_of(node)
    rows = views[query].access
    per_head = _per_head(node, views)
    expressions = _expressions(node)
    nodes = [graph.nodes[place] for place in region.nodes]
    text = render(
        "cpp/attention.jinja",
        title=f"{region.name or region.family} of {region.scope or 'the model'}",
        comments=[line for one in nodes for line in comment(names.line(one))],
        pointers=[pointer(one, buffer.name) for one, buffer in buffers.items()],
        additions=[line for one in per_head for line in one.lines()] + expressions,
        fields=[(one.field, _start(known, one.view)) for one in per_head],
        heads=rows.shape[1],
        layer=layer,
        window=int_of(attrs, "window"),
        scale=float_literal(float_of(attrs, "scale")),
        softcap=float_literal(float_of(attrs, "softcap")),
        latent="true" if _memory(node).is_latent else "false",
        query_type=CTYPES[_dtype(query)],
        state_type=CTYPES[layer.dtype],
        query=_start(known, views[query]),
        row_stride=dim_text(rows.strides[0]),
        head_stride=dim_text(rows.strides[1]),
        state=known[state],
        starts=known[tables[0]],
        lengths=known[tables[1]],
        tables=known[tables[2]],
        reaches=known[reaches] if reaches is not None else "",
        out=known[node.output],
    )
    scratch = attention_scratch(layer.key_size, layer.value_size)
    headers = ("math.h", *HEADERS) if expressions else HEADERS
    return named_kernel(region.name or region.family, text, headers, scratch_bytes=scratch)


def _per_head(node: Node, views: Mapping[Value, View]) -> list[_PerHead]:
    found: list[_PerHead] = []
    if bool_of(node.attrs, "sinks"):
        found.append(_PerHead("HAS_SINKS", "sink", "sinks", views[node.inputs[5]]))
    slopes = slopes_of(node)
    if slopes is not None:
        found.append(_PerHead("HAS_ALIBI", "slope", "slopes", views[slopes]))
    return found


def _expressions(node: Node) -> list[str]:
    """The C++ of what a user does to scores, on sixteen keys at a time."""
    found: list[str] = []
    for name, names, ctype in (("score", SCORE_NAMES, "f32x16"), ("mask", MASK_NAMES, "i32x16")):
        if name not in node.attrs:
            continue
        operands = {one: Term(one, "float", vector=True) for one in names}
        term = cpp_expression(str_of(node.attrs, name), operands, DType.F32)
        parameters = ", ".join(f"f32x16 {one}" for one in names)
        found += [
            f"static constexpr bool HAS_{name.upper()} = true;",
            f"{ctype} {name}({parameters}) const {{",
            f"  return {term.spread()};",
            "}",
        ]
    return found


def _memory(node: Node) -> StateType:
    type_ = node.inputs[1].type
    return type_ if isinstance(type_, StateType) else StateType("kv", ())


def _layer(node: Node) -> LayerState:
    return _memory(node).layers[int_of(node.attrs, "layer")]


def _dtype(value: Value) -> DType:
    return value.type.dtype if isinstance(value.type, TensorType) else DType.F64


def _start(known: Mapping[Value, str], view: View) -> str:
    """The C++ of where a view begins."""
    name, access = known[view.operand], view.access
    return name if access.offset == 0 else f"{name} + {dim_text(access.offset)}"


def _place(access: Access) -> str:
    """The C++ of where a head's number lies."""
    (stride,) = access.strides
    return "head" if stride == 1 else f"head * ({dim_text(stride)})"

"""Batched matrix products as kernels.

before:  a region with one ``matmul``, and views of what it multiplies
after:   a kernel that reads both operands where they lie, through strides

A weight per head (the right operand) is packed, one matrix after the other, rows being columns of
the result; what the step computes is copied to where tiles can read it, a block at a time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph, Node, Value
from graphopt.ir.shape import Dim, product
from graphopt.ir.types import TensorType
from graphopt.ledger import Verdict, refuse
from graphopt.packing import Layout
from graphopt.region import Region

from ..render import render
from ..rows.access import Access
from ..rows.arguments import arguments
from ..rows.names import Names
from ..rows.product import Operand, Sizes, even_groups, product_operand, product_sizes
from ..rows.program import comment
from ..rows.tree import Buffer
from ..rows.views import view_of
from .expression import ctype_of, dim_text
from .kernel import Kernel, named_kernel
from .rows import buffer_of, pointer
from .sizes import BLOCK_ROWS, BLOCK_SCRATCH, row_stride

HEADERS = ("batched.h",)
# As in batched.h.
PRODUCT_SCRATCH = 4 * (48 * row_stride(256) + 64 * 256 + 64 * 48) + BLOCK_SCRATCH
# What the template calls things.
_TAKEN = ("b", "left", "right", "weights")
_FLOATS = (DType.F32, DType.BF16, DType.F16)


def matmul_layouts(graph: Graph, region: Region) -> dict[str, Layout]:
    """How the kernel of a matmul region wants its weights packed, by name."""
    node = _anchor(graph, region)
    weight = node.inputs[1]
    if not weight.is_weight or not isinstance(weight.type, TensorType):
        return {}
    shape = weight.type.shape
    fixed = [size for size in shape if isinstance(size, int) and size > 0]
    if len(shape) < 2 or len(fixed) < len(shape) or weight.type.dtype not in _FLOATS:
        return {}
    *batch, columns, rows = fixed
    count = product(batch)
    if not isinstance(count, int):
        return {}
    return {weight.name: Layout.whole(rows, columns, batch=count, transposed=True)}


def matmul_kernel(graph: Graph, region: Region, layouts: Mapping[str, Layout]) -> Kernel | Verdict:
    """The kernel of a matmul region, or why there is none."""
    node = _anchor(graph, region)
    if region.outputs != (node.output,):
        return refuse("it gives something else than the product", *region.outputs)
    type_ = node.output.type
    if not isinstance(type_, TensorType) or type_.dtype not in _FLOATS:
        return refuse(f"no product is computed in {type_}", node.output)
    weight = node.inputs[1].name
    packed = layouts.get(weight)
    if packed is not None and packed != matmul_layouts(graph, region).get(weight):
        return refuse("a weight is packed for something else", node.inputs[1])
    sizes = product_sizes(node)
    operands: list[Operand] = []
    for place, value in enumerate(node.inputs):
        view = view_of(graph, region, value)
        if view is None:
            return refuse("strides cannot say where an operand lies", value)
        if view.operand.name in layouts and not (place == 1 and view.operand == value):
            return refuse("a weight is packed for something else", view.operand)
        operands.append(product_operand(view, place, sizes))
    return _kernel(graph, region, node, sizes, operands, packed)


def _kernel(
    graph: Graph,
    region: Region,
    node: Node,
    sizes: Sizes,
    operands: Sequence[Operand],
    packed: Layout | None,
) -> Kernel:
    names = Names(graph)
    for word in _TAKEN:
        names.fresh(word, number=False)
    given = arguments(graph, region)
    buffers = {one: buffer_of(one, names) for one in given}
    known = {one.value: buffer for one, buffer in buffers.items()}
    left, right = operands
    result = known[node.output]
    nodes = [graph.nodes[place] for place in region.nodes]
    text = render(
        "cpp/matmul.jinja",
        title=f"{region.name or region.family} of {region.scope or 'the model'}",
        comments=[line for one in nodes for line in comment(names.line(one))],
        pointers=[pointer(one, buffer.name) for one, buffer in buffers.items()],
        batch=dim_text(product(sizes.batch)),
        rows=dim_text(sizes.rows),
        columns=dim_text(sizes.columns),
        depth=dim_text(sizes.depth),
        left=_strided(known[left.view.operand], left, sizes.batch),
        right=known[right.view.operand].name
        if packed
        else _strided(known[right.view.operand], right, sizes.batch),
        panels=f"Panels<{ctype_of(result)}>" if packed else "",
        matrix=_matrix_number(node, sizes.batch),
        y=result.name,
    )
    scratch = PRODUCT_SCRATCH
    if packed is not None:
        scratch = 4 * BLOCK_ROWS * row_stride(packed.columns) + BLOCK_SCRATCH
    return named_kernel(region.name or region.family, text, HEADERS, scratch_bytes=scratch)


def _anchor(graph: Graph, region: Region) -> Node:
    nodes = (graph.nodes[place] for place in region.nodes)
    return next(node for node in nodes if node.op == "matmul")


def _shape(value: Value) -> tuple[Dim, ...]:
    return value.type.shape if isinstance(value.type, TensorType) else ()


def _strided(buffer: Buffer, operand: Operand, batch: tuple[Dim, ...]) -> str:
    """The C++ of the matrix of number ``b``."""
    offset = operand.view.access.offset
    start = [buffer.name, *([dim_text(offset)] if offset != 0 else [])]
    start += _terms(batch, operand.batch)
    strides = f"{dim_text(operand.row)}, {dim_text(operand.column)}"
    return f"Strided<{ctype_of(buffer)}>{{{' + '.join(start)}, {strides}}}"


def _matrix_number(node: Node, batch: tuple[Dim, ...]) -> str:
    """The C++ of which of a weight's matrices number ``b`` of the batch takes."""
    own = _shape(node.inputs[1])[:-2]
    strides: tuple[Dim, ...] = tuple(product(own[place + 1 :]) for place in range(len(own)))
    wide = Access(own, strides).expand(batch)
    return " + ".join(_terms(batch, wide.strides)) or "int64_t(0)"


def _terms(batch: tuple[Dim, ...], strides: tuple[Dim, ...]) -> list[str]:
    """Products that add up to where number ``b`` of a batch lies."""
    groups = even_groups(batch, strides)
    terms: list[str] = []
    inner: Dim = 1
    for place, (size, stride) in reversed(list(enumerate(groups))):
        index = "b" if inner == 1 else f"(b / {_factor(inner)})"
        if place:
            index = f"({index} % {_factor(size)})"
        if stride != 0:
            terms.append(index if stride == 1 else f"{index} * {_factor(stride)}")
        inner = inner * size
    return terms


def _factor(size: Dim) -> str:
    text = dim_text(size)
    return f"({text})" if " " in text else text

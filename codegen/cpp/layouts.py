"""Which weights are packed into panels, and how.

before:  a graph in regions
after:   a layout for each weight that kernels read in panels

A weight has one copy. It is packed if linear maps read it, all in the same parts, and nothing else
does but an embedding, which finds a row in panels too: so a tied table is there once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph, Value
from graphopt.ir.ops_spec import int_of
from graphopt.ir.types import TensorType
from graphopt.packing import Layout, Quant
from graphopt.quantization import GROUPS, quant_of
from graphopt.region import Region

from ..rows.parts import anchor_of, parts_of
from .experts import experts_layouts
from .matmul import matmul_layouts


def layouts_of(graph: Graph, regions: Sequence[Region]) -> dict[str, Layout]:
    """How weights are packed, by name."""
    wanted: dict[str, set[Layout]] = {}
    for region in regions:
        find = FINDERS.get(region.family)
        for name, layout in find(graph, region).items() if find else ():
            wanted.setdefault(name, set()).add(layout)
    weights = {value.name: value for value in graph.weights}
    return {
        name: layouts.pop()
        for name, layouts in wanted.items()
        if len(layouts) == 1 and _is_read_in_panels(graph, weights[name])
    }


def linear_layouts(graph: Graph, region: Region) -> dict[str, Layout]:
    """How a linear region wants its weight."""
    anchor = anchor_of(graph, region)
    weight = anchor.inputs[1]
    type_ = weight.type
    if not (weight.is_weight and isinstance(type_, TensorType)):
        return {}
    rows, columns = type_.shape
    if not (isinstance(rows, int) and isinstance(columns, int) and rows and columns):
        return {}
    quant, scales = None, ""
    if anchor.op == "quantized_linear":
        quant = Quant(int_of(anchor.attrs, "bits"), int_of(anchor.attrs, "group"))
        scales = anchor.inputs[2].name
        if quant not in KERNELS or not anchor.inputs[2].is_weight:
            return {}
    elif type_.dtype not in PACKED:
        return {}
    parts = parts_of(graph, region).columns
    return {weight.name: Layout(rows, columns, parts, quant=quant, scales=scales)}


def _is_read_in_panels(graph: Graph, weight: Value) -> bool:
    """Whether everything that reads ``weight`` can read it in panels."""
    return all(
        node.op in READERS and node.inputs.count(weight) == 1
        for node in graph.users.get(weight, ())
    )


# What reads panels, and the families whose regions want weights in them.
READERS = (
    "linear",
    "embed",
    "moe_experts",
    "matmul",
    "quantized_linear",
    "quantized_embed",
    "quantized_experts",
)
PACKED = (DType.F32, DType.BF16, DType.F16)
KERNELS = tuple(quant_of(bits) for bits in GROUPS)
FINDERS: Mapping[str, Callable[[Graph, Region], Mapping[str, Layout]]] = {
    "linear": linear_layouts,
    "experts": experts_layouts,
    "matmul": matmul_layouts,
}

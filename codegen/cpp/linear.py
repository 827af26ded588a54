"""Linear maps as kernels: the product over packed weights between a prologue and an epilogue.

before:  a region around one ``linear``: norms, gathers, gates before it; bias, units, sums after it
after:   a kernel that makes rows of the operand, multiplies, and gives each sum its last form

The prologue writes row ``t`` of the operand where the product wants it. The epilogue takes some
columns of a row at a time, as they come out of the product; one that needs whole rows, such as a
norm, runs after the product, on sums that were kept.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph, Node, Value
from graphopt.ir.shape import Dim, product
from graphopt.ir.types import TensorType
from graphopt.ledger import Verdict, refuse
from graphopt.packing import Layout, stored_type
from graphopt.region import Region

from ..render import render
from ..rows.access import Access
from ..rows.arguments import Kind, arguments
from ..rows.names import Names
from ..rows.parts import Parts, anchor_of, parts_of
from ..rows.program import comment, leaf_of, rows_of
from ..rows.tree import Apply, Buffer, Leaf, RefusedError, Tree
from .expression import CTYPES, dim_text
from .kernel import Kernel, named_kernel
from .quant_sizes import quant_scratch, quant_workspace
from .rows import HEADERS, RowProgram, buffer_of, pointer, row_program
from .sizes import linear_scratch, linear_workspace

# Operands without the bias.
_OPERANDS = {"linear": 2, "quantized_linear": 3}


def linear_kernel(graph: Graph, region: Region, layouts: Mapping[str, Layout]) -> Kernel | Verdict:
    """The kernel of a linear region, or why there is none."""
    anchor = anchor_of(graph, region)
    weight = anchor.inputs[1]
    if weight.name not in layouts or not weight.is_weight:
        return refuse("its weight is not packed, for something else reads it too", weight)
    if anchor.attrs.get("weight_only"):
        return refuse("its rows are not rounded, which kernels on a CPU do", anchor)
    try:
        writer = _Writer(graph, region, anchor, layouts)
        fill = writer.prologue()
        if isinstance(fill, Verdict):
            return fill
        parts = parts_of(graph, region)
        store = writer.epilogue(parts)
        if isinstance(store, Verdict) and len(parts.columns) == 1:
            return _kernel(writer, parts, fill, writer.late_epilogue(), whole_rows=True)
        return _kernel(writer, parts, fill, store, whole_rows=False)
    except RefusedError as error:
        return refuse(error.reason, *error.culprits)


@dataclass(frozen=True, slots=True)
class _Shape:
    """Sizes of a product: rows, rows of the weight, columns of the weight."""

    rows: Dim
    n: int
    k: int


class _Writer:
    """The parts of one kernel's text."""

    def __init__(
        self, graph: Graph, region: Region, anchor: Node, layouts: Mapping[str, Layout]
    ) -> None:
        self.graph = graph
        self.region = region
        self.anchor = anchor
        self.layouts = layouts
        self.layout = layouts[anchor.inputs[1].name]
        self.rows = rows_of(region.outputs, graph, region)
        if self.rows.symbol is None:
            raise RefusedError("it has no rows to share between threads", *region.outputs)
        self.row = self.rows.symbol.lower()
        self.names = Names(graph)
        self.given = arguments(graph, region)
        unknown = [one for one in self.given if one.dtype not in CTYPES]
        if unknown:
            raise RefusedError(f"nothing is computed in {unknown[0].dtype}", unknown[0].value)
        self.buffers = {one: buffer_of(one, self.names) for one in self.given}
        self.x = self.names.fresh("x", number=False)
        operand = anchor.inputs[0]
        shape = operand.type.shape if isinstance(operand.type, TensorType) else ()
        if self.rows.elements(shape) != self.layout.columns or not self.rows.has(shape):
            raise RefusedError("a row of its operand is not one row of the product", operand)
        self.size = _Shape(product(shape[:-1]), self.layout.rows, self.layout.columns)
        self.bias = anchor.inputs[-1] if len(anchor.inputs) > _OPERANDS[anchor.op] else None

    @property
    def dtype(self) -> DType:
        """Element type of the weight."""
        type_ = self.anchor.inputs[1].type
        return type_.dtype if isinstance(type_, TensorType) else DType.F32

    def prologue(self) -> RowProgram | Verdict:
        """Writes a row of the operand to ``x``."""
        operand = self.anchor.inputs[0]
        given: dict[Value, Buffer | Tree] = dict(self._operands())
        return self._program(
            given, {operand: Buffer(self.x, DType.F32, self.size.k, spelled="auto")}
        )

    def epilogue(self, parts: Parts) -> RowProgram | Verdict:
        """Gives some columns of each part of a row their last form."""
        given: dict[Value, Buffer | Tree] = dict(self._operands())
        for value, part in parts.values.items():
            columns = len(range(*parts.columns[part]))
            sums = leaf_of(value, Buffer(f"acc[{part}]", DType.F32, columns, first="first"))
            given[value] = self._with_bias(value, sums, parts.columns[part])
        return self._program(given, self._results(), span=("first", "count"))

    def late_epilogue(self) -> RowProgram | Verdict:
        """Gives a row its last form."""
        value = self.anchor.output
        sums = leaf_of(value, Buffer("product", DType.F32))
        tree = self._with_bias(value, sums, (0, self.size.n, 1))
        return self._program({**self._operands(), value: tree}, self._results())

    def pointers(self) -> list[str]:
        """Declarations of what the region reads and writes."""
        return [pointer(one, buffer.name) for one, buffer in self.buffers.items()]

    def buffer(self, value: Value) -> Buffer:
        """The memory of an operand."""
        return next(buffer for one, buffer in self.buffers.items() if one.value is value)

    def _operands(self) -> dict[Value, Buffer]:
        return {o.value: b for o, b in self.buffers.items() if o.kind is not Kind.RESULT}

    def _results(self) -> dict[Value, Buffer]:
        return {o.value: b for o, b in self.buffers.items() if o.kind is Kind.RESULT}

    def _with_bias(self, value: Value, sums: Leaf, part: tuple[int, int, int]) -> Tree:
        if (bias := self.bias) is None:
            return sums
        if bias not in self._operands():
            raise RefusedError("its bias is computed in the region", bias)
        shape = sums.access.shape
        start, _, step = part
        strides: tuple[Dim, ...] = (0,) * (len(shape) - 1) + (step,)
        leaf = Leaf(self.buffer(bias), Access(shape, strides, start))
        return Apply("a + b", (sums, leaf), self.dtype, "float", self.names.of(value))

    def _program(
        self,
        given: Mapping[Value, Buffer | Tree],
        results: Mapping[Value, Buffer],
        span: tuple[str, str] | None = None,
    ) -> RowProgram | Verdict:
        return row_program(
            self.graph,
            _needed(self.graph, self.region, results, given),
            given,
            results,
            rows=self.rows,
            names=self.names,
            row=self.row,
            layouts=self.layouts,
            span=span,
        )


def _needed(
    graph: Graph, region: Region, results: Iterable[Value], given: Mapping[Value, object]
) -> list[int]:
    """Positions of the region's nodes that ``results`` need, where ``given`` is at hand."""
    places = {output: place for place in region.nodes for output in graph.nodes[place].outputs}
    found: set[int] = set()
    waiting = [value for value in results if value not in given]
    while waiting:
        place = places.get(waiting.pop())
        if place is not None and place not in found:
            found.add(place)
            waiting += [value for value in graph.nodes[place].inputs if value not in given]
    return sorted(found)


def _kernel(
    writer: _Writer,
    parts: Parts,
    fill: RowProgram,
    store: RowProgram | Verdict,
    *,
    whole_rows: bool,
) -> Kernel | Verdict:
    if isinstance(store, Verdict):
        return store
    size, layout = writer.size, writer.layout
    product_of = _product(writer.layout, writer.dtype, size)
    data = writer.buffer(writer.anchor.inputs[1]).name
    workspace = product_of.workspace
    text = render(
        "cpp/linear.jinja",
        title=f"{writer.region.name} of {writer.region.scope or 'the model'}",
        comments=comment(writer.names.line(writer.anchor)),
        pointers=writer.pointers(),
        panels=f"Panels<{product_of.element}>",
        parts=_part_names(data, layout, product_of),
        columns=size.k,
        row=writer.row,
        count=f"step.{writer.rows.symbol}",
        x=writer.x,
        fill=fill.lines,
        fill_scratch=fill.scratch_bytes > 0,
        scratch_base=product_of.scratch_bytes,
        store=store.lines,
        store_scratch=store.scratch_bytes > 0,
        whole_rows=whole_rows,
        whole_columns=size.n,
        workspace=len(writer.given),
        product_base=dim_text(_rounded(workspace)),
    )
    if whole_rows:
        workspace = _rounded(workspace) + 4 * size.rows * size.n
    scratch = max(product_of.scratch_bytes + fill.scratch_bytes, store.scratch_bytes)
    return named_kernel(
        writer.region.name,
        text,
        (product_of.header, *HEADERS),
        scratch_bytes=scratch,
        workspace=workspace,
    )


@dataclass(frozen=True, slots=True)
class _Product:
    """How a weight is multiplied with.

    Attributes:
        header: has the kernel.
        element: C++ type of the panels' elements.
        panel_bytes: of one panel.
        workspace: bytes that all threads share.
        scratch_bytes: of each thread.
    """

    header: str
    element: str
    panel_bytes: int
    workspace: Dim
    scratch_bytes: int


def _product(layout: Layout, dtype: DType, size: _Shape) -> _Product:
    if (quant := layout.quant) is not None:
        return _Product(
            "gemm_quant.h",
            f"Quantized<{quant.bits}, {quant.group}>",
            quant.panel_bytes(size.k),
            quant_workspace(size.rows, size.k, quant),
            quant_scratch(size.k, quant),
        )
    return _Product(
        "gemm.h",
        CTYPES[dtype],
        math.prod(stored_type(layout, dtype)[1][2:]) * dtype.nbytes,
        linear_workspace(size.rows, size.k),
        linear_scratch(size.k),
    )


def _part_names(data: str, layout: Layout, product: _Product) -> Sequence[Mapping[str, object]]:
    """Where each part's panels begin, and how many rows it has."""
    element = f"const {product.element}*"
    found, panels = [], 0
    for rows, count in zip(layout.part_rows, layout.part_panels, strict=True):
        place = f"(const char*){data} + {panels * product.panel_bytes}" if panels else data
        found.append({"data": f"({element})({place})", "rows": rows})
        panels += count
    return found


def _rounded(nbytes: Dim) -> Dim:
    return (nbytes + 63) // 64 * 64

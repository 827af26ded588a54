"""Row programs: a region's work on one row at a time, as a kernel or as a part of another kernel.

before:  nodes of a graph; where the values that they read and give lie
after:   the C++ statements that compute one row

A row is what belongs to one token, or to one row of logits: the elements at one position of the
dimension that ``T`` (or ``R``) sizes, wherever it stands in a value's shape. Values without it,
such as weights, are the same for all rows. So the same statements are the body of a kernel that
walks over rows, of the prologue of a linear map, which writes row ``t`` of its operand where it is
told, and of an epilogue, which finds row ``t`` of the product where it is told.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from graphopt.ir.graph import Graph, Node, Value
from graphopt.ledger import Verdict, refuse
from graphopt.packing import Layout
from graphopt.region import Region

from ..render import render
from ..rows import index, layers, pointwise, reduce, shape
from ..rows.arguments import Argument, Kind, arguments
from ..rows.lower import Lower
from ..rows.names import Names
from ..rows.program import comment, leaf_of, needed, rows_of
from ..rows.tree import Buffer, RefusedError, Rows, Tree
from . import rows_calls
from .expression import CTYPES
from .kernel import Kernel, named_kernel
from .rows_lower import RowLowering
from .rows_print import Printer
from .rows_statements import Statement

HEADERS = ("parallel.h", "row.h", "pack.h", "kv.h", "router.h")
_TABLE: Mapping[str, Lower] = {
    **pointwise.TABLE,
    **shape.TABLE,
    **reduce.TABLE,
    **index.TABLE,
    **layers.TABLE,
    **rows_calls.TABLE,
}


@dataclass(frozen=True, slots=True)
class RowProgram:
    """The statements that compute one row.

    Attributes:
        lines: C++; they read ``step``, the row's number and, if there are ``scratch_bytes``, a
            ``char* scratch`` of the thread's own.
        scratch_bytes: size of that memory, which begins at a multiple of 64.
    """

    lines: tuple[str, ...]
    scratch_bytes: int


def row_program(
    graph: Graph,
    nodes: Iterable[int],
    operands: Mapping[Value, Buffer | Tree],
    results: Mapping[Value, Buffer],
    *,
    rows: Rows,
    names: Names,
    row: str,
    layouts: Mapping[str, Layout],
    span: tuple[str, str] | None = None,
) -> RowProgram | Verdict:
    """The program that computes ``results`` from ``operands``, or why there is none.

    Args:
        graph: what the nodes belong to.
        nodes: positions of the nodes to compute with; what the results do not need is left out,
            but for writes of state.
        operands: the memory that each value lies in, row-major; or what it is made of.
        results: the memory that each result goes to, row-major.
        rows: what rows are.
        names: the names that the kernel has given so far.
        row: C++ name of the row's number.
        layouts: how packed weights are stored.
        span: C++ names of a first column and a number of columns, to compute only those; refused
            if the results are more than one loop over columns.
    """
    chosen = [graph.nodes[place] for place in nodes]
    makers = {output: node for node in chosen for output in node.outputs}
    lowering = RowLowering(
        graph=graph,
        makers=makers,
        rows=rows,
        operands={
            value: leaf_of(value, made)
            for value, made in operands.items()
            if isinstance(made, Buffer)
        },
        known={v: made for v, made in operands.items() if not isinstance(made, Buffer)},
        results={value: leaf_of(value, buffer) for value, buffer in results.items()},
        layouts=layouts,
        names=names,
        table=_TABLE,
        dtypes=CTYPES.keys(),
    )
    printer = Printer(rows, row, names, span=span)
    try:
        lowering.finish()
        _print(printer, lowering.statements, chosen, makers)
    except RefusedError as error:
        return refuse(error.reason, *(error.culprits or results))
    return RowProgram(tuple(printer.lines), lowering.scratch_bytes)


def _print(
    printer: Printer,
    statements: Sequence[Statement],
    nodes: Sequence[Node],
    makers: Mapping[Value, Node],
) -> None:
    """Prints statements, each under the nodes that it is the first to compute with."""
    told: set[Node] = set()
    for statement in statements:
        computed = needed(getattr(statement, "values", ()), makers)
        fresh = [node for node in nodes if node in computed and node not in told]
        told.update(fresh)
        for node in fresh:
            for line in comment(printer.names.line(node)):
                printer.put(line)
        printer.print(statement)


def rows_kernel(graph: Graph, region: Region, layouts: Mapping[str, Layout]) -> Kernel | Verdict:
    """The kernel that computes a region row by row, or why there is none."""
    try:
        rows = rows_of(region.outputs or (graph.nodes[region.nodes[-1]].output,), graph, region)
    except RefusedError as error:
        return refuse(error.reason, *error.culprits)
    names = Names(graph)
    given = arguments(graph, region)
    unknown = [one for one in given if one.dtype is not None and one.dtype not in CTYPES]
    if unknown:
        return refuse(f"nothing is computed in {unknown[0].dtype}", unknown[0].value)
    buffers = {one: buffer_of(one, names) for one in given if one.kind is not Kind.VALUES}
    row = (rows.symbol or "row").lower()
    program = row_program(
        graph,
        region.nodes,
        {one.value: buffer for one, buffer in buffers.items() if one.kind is not Kind.RESULT},
        {one.value: buffer for one, buffer in buffers.items() if one.kind is Kind.RESULT},
        rows=rows,
        names=names,
        row=row,
        layouts=layouts,
    )
    if isinstance(program, Verdict):
        return program
    text = render(
        "cpp/rows.jinja",
        title=f"{region.name or region.family} of {region.scope or 'the model'}",
        pointers=[pointer(one, buffer.name) for one, buffer in buffers.items()],
        scratch=program.scratch_bytes > 0,
        count=f"step.{rows.symbol}" if rows.symbol else "1",
        row=row,
        lines=program.lines,
    )
    headers = (*HEADERS, "gemm_quant.h") if "Quantized<" in text else HEADERS
    return named_kernel(
        region.name or region.family, text, headers, scratch_bytes=program.scratch_bytes
    )


def buffer_of(argument: Argument, names: Names) -> Buffer:
    """The memory that an argument points to."""
    name = names.use(names.of(argument.value))
    return Buffer(name, argument.dtype, spelled="" if argument.dtype else "KvLayer")


def pointer(argument: Argument, name: str) -> str:
    """The C++ that declares an argument."""
    place = argument.index
    if argument.dtype is None:
        return f"const KvLayer {name}{{a[{place}], a[{place + 1}], step.block_size}};"
    constant = "" if argument.kind is Kind.RESULT else "const "
    ctype = f"{constant}{CTYPES[argument.dtype]}*"
    return f"{ctype} const {name} = ({ctype})a[{place}];"

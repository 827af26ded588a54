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

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from graphopt.ir.graph import Graph, Node, Value
from graphopt.ir.shape import symbols
from graphopt.ir.types import StateType, TensorType
from graphopt.ledger import Verdict, refuse
from graphopt.packing import Layout
from graphopt.region import Region

from ..render import one_line, render
from . import rows_index, rows_layers, rows_pointwise, rows_reduce, rows_shape
from .access import Access, contiguous
from .arguments import Argument, Kind, arguments
from .expression import CTYPES
from .kernel import Kernel, named_kernel
from .rows_lower import Lower, Lowering, finish, type_of
from .rows_names import Names
from .rows_print import Printer
from .rows_tree import Buffer, Leaf, RefusedError, Rows, Statement, Tree

HEADERS = ("parallel.h", "row.h", "pack.h", "kv.h", "router.h")
# A region without rows is one row, and one thread's work: no more elements than this.
ONE_ROW_ELEMENTS = 1 << 16
_TABLE: Mapping[str, Lower] = {
    **rows_pointwise.TABLE,
    **rows_shape.TABLE,
    **rows_reduce.TABLE,
    **rows_index.TABLE,
    **rows_layers.TABLE,
}
_WIDTH = 96


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
    lowering = Lowering(
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
    )
    printer = Printer(rows, row, names, span=span)
    try:
        finish(lowering)
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
        needed = _needed(getattr(statement, "values", ()), makers)
        fresh = [node for node in nodes if node in needed and node not in told]
        told.update(fresh)
        for node in fresh:
            for line in comment(printer.names.line(node)):
                printer.put(line)
        printer.print(statement)


def comment(text: str) -> list[str]:
    """A text as comment lines."""
    return textwrap.wrap(
        one_line(text),
        _WIDTH - 4,
        initial_indent="// ",
        subsequent_indent="//   ",
        break_on_hyphens=False,
    )


def _needed(values: Iterable[Value], makers: Mapping[Value, Node]) -> set[Node]:
    found: set[Node] = set()
    waiting = list(values)
    while waiting:
        node = makers.get(waiting.pop())
        if node is not None and node not in found:
            found.add(node)
            waiting.extend(node.inputs)
    return found


def leaf_of(value: Value, buffer: Buffer) -> Leaf:
    """A value that lies in a buffer, row-major."""
    if isinstance(value.type, StateType):
        return Leaf(buffer, Access((), ()))
    return Leaf(buffer, contiguous(type_of(value).shape))


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


def rows_of(outputs: Iterable[Value], graph: Graph, region: Region) -> Rows:
    """The dimension along which a region's rows lie.

    Raises:
        RefusedError: there are several, or none and too many elements for one thread.
    """
    found: dict[str, None] = {}
    for value in outputs:
        if isinstance(value.type, StateType):
            slots = graph.producers[value].inputs[-1]
            sizes = type_of(slots).shape
        else:
            sizes = value.type.shape
        for size in sizes:
            found.update(dict.fromkeys(sorted(symbols(size))))
    if len(found) > 1:
        raise RefusedError(f"rows could be {' or '.join(found)}", *outputs)
    rows = Rows(next(iter(found), None))
    if rows.symbol is None:
        for value in outputs:
            if isinstance(value.type, TensorType) and (
                rows.elements(value.type.shape) > ONE_ROW_ELEMENTS
            ):
                raise RefusedError("it has no rows to share between threads", value)
    return rows


def buffer_of(argument: Argument, names: Names) -> Buffer:
    """The memory that an argument points to."""
    name = names.use(names.of(argument.value))
    return Buffer(name, CTYPES[argument.dtype] if argument.dtype else "KvLayer")


def pointer(argument: Argument, name: str) -> str:
    """The C++ that declares an argument."""
    place = argument.index
    if argument.dtype is None:
        return f"const KvLayer {name}{{a[{place}], a[{place + 1}], step.block_size}};"
    constant = "" if argument.kind is Kind.RESULT else "const "
    ctype = f"{constant}{CTYPES[argument.dtype]}*"
    return f"{ctype} const {name} = ({ctype})a[{place}];"

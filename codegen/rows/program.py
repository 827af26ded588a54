"""What row programs of all targets have in common: their rows, their nodes, their comments."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping

from graphopt.ir.graph import Graph, Node, Value
from graphopt.ir.shape import symbols
from graphopt.ir.types import StateType, TensorType
from graphopt.region import Region

from ..render import one_line
from .access import Access, contiguous
from .lower import type_of
from .tree import Buffer, Leaf, RefusedError, Rows

# A region without rows is one row, and one thread's work: no more elements than this.
ONE_ROW_ELEMENTS = 1 << 16
_WIDTH = 96


def rows_of(
    outputs: Iterable[Value], graph: Graph, region: Region, most: int = ONE_ROW_ELEMENTS
) -> Rows:
    """The dimension along which a region's rows lie.

    Args:
        outputs: the region's results.
        graph: what the region is of.
        region: what to compute.
        most: elements of a result that has no rows.

    Raises:
        RefusedError: there are several, or none and too many elements for one program.
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
            if isinstance(value.type, TensorType) and (rows.elements(value.type.shape) > most):
                raise RefusedError("it has no rows to share between threads", value)
    return rows


def leaf_of(value: Value, buffer: Buffer) -> Leaf:
    """A value that lies in a buffer, row-major."""
    if isinstance(value.type, StateType):
        return Leaf(buffer, Access((), ()))
    return Leaf(buffer, contiguous(type_of(value).shape))


def needed(values: Iterable[Value], makers: Mapping[Value, Node]) -> set[Node]:
    """The nodes that ``values`` are made with."""
    found: set[Node] = set()
    waiting = list(values)
    while waiting:
        node = makers.get(waiting.pop())
        if node is not None and node not in found:
            found.add(node)
            waiting.extend(node.inputs)
    return found


def comment(text: str, mark: str = "//") -> list[str]:
    """A text as comment lines."""
    return textwrap.wrap(
        one_line(text),
        _WIDTH - 4,
        initial_indent=f"{mark} ",
        subsequent_indent=f"{mark}   ",
        break_on_hyphens=False,
    )

"""Whether two graphs are the same: names, types, operators, attributes, locations and order."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence

from .graph import Attr, Graph, Node, Value


def same_graph(left: Graph, right: Graph) -> bool:
    """Whether nothing tells the graphs apart but the identity of their objects."""
    return difference(left, right) is None


def difference(left: Graph, right: Graph) -> str | None:
    """The first difference between two graphs, in words, or None if they are the same."""
    if left.name != right.name:
        return f"names: {left.name!r} and {right.name!r}"
    twins: dict[Value, Value] = {}
    for kind in ("inputs", "weights"):
        found = _declare(kind, getattr(left, kind), getattr(right, kind), twins)
        if found is not None:
            return found
    if len(left.nodes) != len(right.nodes):
        return f"nodes: {len(left.nodes)} and {len(right.nodes)}"
    for a, b in zip(left.nodes, right.nodes, strict=True):
        found = _compare_nodes(a, b, twins)
        if found is not None:
            return found
    return _read("outputs", left.outputs, right.outputs, twins)


def same_attr(left: Attr, right: Attr) -> bool:
    """Whether two attributes are the same: 1, 1.0 and true differ, a NaN is itself."""
    if type(left) is not type(right):
        return False
    if isinstance(left, tuple) and isinstance(right, tuple):
        return len(left) == len(right) and all(map(same_attr, left, right))
    if isinstance(left, float) and isinstance(right, float):
        return struct.pack("d", left) == struct.pack("d", right) or (
            left != left and right != right
        )
    return left == right


def same_attrs(left: Mapping[str, Attr], right: Mapping[str, Attr]) -> bool:
    """Whether two nodes have the same attributes in the same order."""
    return list(left) == list(right) and all(same_attr(left[name], right[name]) for name in left)


def _declare(
    what: str, left: Sequence[Value], right: Sequence[Value], twins: dict[Value, Value]
) -> str | None:
    if len(left) != len(right):
        return f"{what}: {len(left)} and {len(right)}"
    for a, b in zip(left, right, strict=True):
        if (a.name, a.is_weight) != (b.name, b.is_weight) or a.type != b.type:
            return f"{what}: {a!r} and {b!r}"
        twins[a] = b
    return None


def _read(
    what: str, left: Sequence[Value], right: Sequence[Value], twins: Mapping[Value, Value]
) -> str | None:
    same = len(left) == len(right) and all(
        twins.get(a) is b for a, b in zip(left, right, strict=True)
    )
    return None if same else f"{what}: {list(left)} and {list(right)}"


def _compare_nodes(a: Node, b: Node, twins: dict[Value, Value]) -> str | None:
    if a.op != b.op:
        return f"operators: {a!r} and {b!r}"
    if not same_attrs(a.attrs, b.attrs):
        return f"attributes: {a!r} {dict(a.attrs)} and {b!r} {dict(b.attrs)}"
    if a.loc != b.loc:
        return f"locations: {a!r} {a.loc} and {b!r} {b.loc}"
    found = _read(f"inputs of {a!r} and {b!r}", a.inputs, b.inputs, twins)
    return found or _declare(f"outputs of {a!r} and {b!r}", a.outputs, b.outputs, twins)

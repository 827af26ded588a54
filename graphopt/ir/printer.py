"""The text form of a graph. ``parse_graph`` reads it back to the identical graph.

graph @name(%x: f32[T, 8]) -> f32[T, 8] {
@layer.weight: f32[8, 8]
%0: f32[T, 8] = linear(%x, @layer.weight)  // modeling.py:12 in model.layer
return %0
}
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable

from .dtype import DType
from .graph import Attr, Graph, Node, SourceLocation, Value
from .types import Type

_PLAIN_NAME = re.compile(r"\w[\w.\-]*", re.ASCII)
_PLAIN_WORD = re.compile(r"[A-Za-z_][\w.]*", re.ASCII)
_PLAIN_FILE = re.compile(r"[\w.\-]+", re.ASCII)


def print_graph(graph: Graph) -> str:
    """The text of a graph, ending in a newline; the same graph always gives the same text."""
    types: dict[Type, str] = {}
    inputs = ", ".join(_declared(value, types) for value in graph.inputs)
    results = ", ".join(_type_text(value.type, types) for value in graph.outputs)
    if len(graph.outputs) != 1:
        results = f"({results})"
    lines = [f"graph @{print_name(graph.name)}({inputs}) -> {results} {{"]
    lines.extend(f"  {_declared(value, types)}" for value in graph.weights)
    lines.extend(f"  {_node(node, types)}" for node in graph.nodes)
    lines.append(f"  return {_values(graph.outputs)}".rstrip())
    lines.append("}\n")
    return "\n".join(lines)


def print_node(node: Node) -> str:
    """The line of a node."""
    return _node(node, {})


def print_name(name: str) -> str:
    """A name as it stands after ``%`` or ``@``: quoted if it has odd characters."""
    return name if _PLAIN_NAME.fullmatch(name) else json.dumps(name)


def print_attr(attr: Attr) -> str:
    """An attribute's value."""
    match attr:
        case None:
            return "none"
        case bool():
            return "true" if attr else "false"
        case float():
            return repr(attr)
        case str():
            return json.dumps(attr)
        case tuple():
            return f"[{', '.join(map(print_attr, attr))}]"
        case DType():
            return attr.value
    return str(attr)


def print_location(loc: SourceLocation) -> str:
    """A location as it stands after ``//``."""
    parts: list[str] = []
    if loc.file or loc.line or not loc.module:
        file = loc.file if not loc.file or _PLAIN_FILE.fullmatch(loc.file) else json.dumps(loc.file)
        parts.append(f"{file}:{loc.line}")
    if loc.module:
        module = loc.module if _PLAIN_NAME.fullmatch(loc.module) else json.dumps(loc.module)
        parts.append(f"in {module}")
    return " ".join(parts)


def _value(value: Value) -> str:
    return f"{'@' if value.is_weight else '%'}{print_name(value.name)}"


def _values(values: Iterable[Value]) -> str:
    return ", ".join(map(_value, values))


def _type_text(type_: Type, known: dict[Type, str]) -> str:
    found = known.get(type_)
    if found is None:
        found = known[type_] = str(type_)
    return found


def _declared(value: Value, types: dict[Type, str]) -> str:
    return f"{_value(value)}: {_type_text(value.type, types)}"


def _node(node: Node, types: dict[Type, str]) -> str:
    outputs = ", ".join(_declared(value, types) for value in node.outputs)
    op = node.op if _PLAIN_WORD.fullmatch(node.op) else json.dumps(node.op)
    line = f"{outputs} = {op}({_values(node.inputs)})"
    if node.attrs:
        pairs = (f"{_key(name)} = {print_attr(attr)}" for name, attr in node.attrs.items())
        line += f" {{{', '.join(pairs)}}}"
    if node.loc is not None:
        line += f"  // {print_location(node.loc)}"
    return line


def _key(name: str) -> str:
    return name if _PLAIN_WORD.fullmatch(name) else json.dumps(name)

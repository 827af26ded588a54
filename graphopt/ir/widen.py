"""The same graph in a wider floating-point type, to tell rounding from error.

before:  %1: bf16[T, 8] = cast(%0) {dtype = bf16}
after:   %1: f32[T, 8] = cast(%0) {dtype = f32}

Every floating-point type narrower than the wanted one becomes it: of inputs, weights, state, values
and attributes. Weights keep their names; the interpreter converts them as it reads them.
"""

from __future__ import annotations

from types import MappingProxyType

from graphopt.errors import IRError

from .dtype import DType
from .graph import Attr, Graph, Node, Value
from .types import LayerState, StateType, TensorType, Type


def widen(graph: Graph, dtype: DType = DType.F32) -> Graph:
    """The graph with floating-point types narrower than ``dtype`` replaced by it.

    Raises:
        IRError: ``dtype`` is neither f32 nor f64.
    """
    if dtype not in (DType.F32, DType.F64):
        raise IRError("not a type to widen to", got=dtype, expected="f32 or f64")
    now: dict[Value, Value] = {}
    types: dict[Type, Type] = {}

    def value(old: Value) -> Value:
        if old.type not in types:
            types[old.type] = widen_type(old.type, dtype)
        type_ = types[old.type]
        now[old] = old if type_ == old.type else Value(old.name, type_, old.is_weight)
        return now[old]

    inputs, weights = tuple(map(value, graph.inputs)), tuple(map(value, graph.weights))
    nodes = tuple(
        Node(
            node.op,
            tuple(now[old] for old in node.inputs),
            tuple(map(value, node.outputs)),
            MappingProxyType({name: _attr(attr, dtype) for name, attr in node.attrs.items()}),
            node.loc,
        )
        for node in graph.nodes
    )
    return Graph(graph.name, inputs, weights, nodes, tuple(now[old] for old in graph.outputs))


def widen_type(type_: Type, dtype: DType) -> Type:
    """``type_`` with a narrower floating-point element type replaced by ``dtype``."""
    if isinstance(type_, TensorType):
        return TensorType(_wider(type_.dtype, dtype), type_.shape)
    return StateType(
        type_.kind,
        tuple(
            LayerState(
                layer.heads,
                layer.key_size,
                layer.value_size,
                _wider(layer.dtype, dtype),
                layer.window,
            )
            for layer in type_.layers
        ),
    )


def _wider(old: DType, dtype: DType) -> DType:
    return dtype if old.is_float and old.nbytes < dtype.nbytes else old


def _attr(attr: Attr, dtype: DType) -> Attr:
    if isinstance(attr, DType):
        return _wider(attr, dtype)
    if isinstance(attr, tuple):
        return tuple(_attr(item, dtype) for item in attr)
    return attr

"""Lowering of layers: norms, rotary positions, routers, and writes of keys and values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from graphopt.ir.graph import Node
from graphopt.ir.ops_spec import bool_of, float_of, int_of, str_of
from graphopt.ir.shape import Dim
from graphopt.ir.types import StateType, TensorType

from .access import Access
from .expression import float_literal
from .rows_lower import Lower, Lowering, type_of
from .rows_pointwise import apply, broadcast
from .rows_reduce import heads_of, in_memory, mean
from .rows_shape import Place, narrow
from .rows_tree import Address, Assembly, Call, Leaf, Number, RefusedError, Tree, map_view


def _rms_norm(lowering: Lowering, node: Node) -> Sequence[Tree]:
    type_ = type_of(node.output)
    x = in_memory(lowering, lowering.tree(node.inputs[0]), type_, node.inputs[0])
    last = (len(type_.shape) - 1,)
    square = mean(lowering, apply("square(a)", x), type_, last, node.output)
    eps = Number(float_of(node.attrs, "eps"), "float")
    scale = broadcast(apply("rsqrt(a + b)", square, eps, name="scale"), type_.shape)
    name = lowering.names.of(node.output)
    normed = apply("a * b", x, scale, dtype=type_.dtype, name=name)
    if len(node.inputs) == 1:
        return (normed,)
    weight = broadcast(lowering.tree(node.inputs[1]), type_.shape)
    offset = float_of(node.attrs, "offset")
    if offset:
        weight = apply("a + b", weight, Number(offset, "float"))
    return (apply("a * b", normed, weight, dtype=type_.dtype, name=name),)


def _layer_norm(lowering: Lowering, node: Node) -> Sequence[Tree]:
    type_, axes = type_of(node.output), int_of(node.attrs, "axes")
    x = in_memory(lowering, lowering.tree(node.inputs[0]), type_, node.inputs[0])
    dims = tuple(range(len(type_.shape) - axes, len(type_.shape)))
    center = broadcast(mean(lowering, x, type_, dims, node.output), type_.shape)
    deviation = apply("a - b", x, center, name="deviation")
    square = mean(lowering, apply("square(a)", deviation), type_, dims, node.output)
    eps = Number(float_of(node.attrs, "eps"), "float")
    scale = broadcast(apply("rsqrt(a + b)", square, eps, name="scale"), type_.shape)
    name = lowering.names.of(node.output)
    result: Tree = apply("a * b", deviation, scale, dtype=type_.dtype, name=name)
    others = [broadcast(lowering.tree(value), type_.shape) for value in node.inputs[1:]]
    if bool_of(node.attrs, "has_weight"):
        result = apply("a * b", result, others.pop(0), dtype=type_.dtype, name=name)
    if bool_of(node.attrs, "has_bias"):
        result = apply("a + b", result, others.pop(0), dtype=type_.dtype, name=name)
    return (result,)


def _rope(lowering: Lowering, node: Node) -> Sequence[Assembly]:
    type_ = type_of(node.output)
    x = in_memory(lowering, lowering.tree(node.inputs[0]), type_, node.inputs[0])
    _, heads, size = type_.shape
    pairs = type_of(node.inputs[1]).shape[1]
    offset, interleaved = int_of(node.attrs, "offset"), bool_of(node.attrs, "interleaved")
    if not (isinstance(pairs, int) and isinstance(size, int)):
        raise RefusedError("a head has no fixed size", node)

    def table(value: int) -> Tree:
        tree = lowering.tree(node.inputs[value])
        if not isinstance(tree, Leaf):
            given = node.inputs[value]
            tree = lowering.store(tree, type_of(given), lowering.names.of(given), given)
        return _over_heads(tree, heads)

    step, second = (2, offset + 1) if interleaved else (1, offset + pairs)
    halves = [narrow(2, start, pairs, step) for start in (offset, second)]
    a, b = (map_view(x, half) for half in halves)
    if a is None or b is None:
        raise RefusedError("heads have no halves", node)
    cos, sin = table(1), table(2)
    turned = (
        apply("a - b", apply("a * b", a, cos), apply("a * b", b, sin), name="low"),
        apply("a + b", apply("a * b", b, cos), apply("a * b", a, sin), name="high"),
    )
    parts: list[tuple[Place, Tree]] = list(zip(halves, turned, strict=True))
    for start, stop in ((0, offset), (offset + 2 * pairs, size)):
        rest = map_view(x, narrow(2, start, stop - start))
        if stop > start and rest is not None:
            parts.append((narrow(2, start, stop - start), rest))
    return (Assembly(tuple(parts)),)


def _over_heads(tree: Tree, heads: Dim) -> Tree:
    """A table ``[T, P]`` as ``[T, heads, P]``."""
    found = map_view(
        tree,
        lambda access: Access(
            (access.shape[0], heads, access.shape[1]),
            (access.strides[0], 0, access.strides[1]),
            access.offset,
        ),
    )
    return tree if found is None else found


def _moe_router(lowering: Lowering, node: Node) -> Sequence[Tree]:
    type_ = type_of(node.inputs[0])
    logits = lowering.rows_of(
        lowering.tree(node.inputs[0]), type_, lowering.names.of(node.inputs[0])
    )
    bias = "nullptr"
    given: list[str | Address | Tree] = [bias]
    if len(node.inputs) == 2:
        own = type_of(node.inputs[1])
        leaf = lowering.rows_of(lowering.tree(node.inputs[1]), own, "bias")
        given = [Address(heads_of(leaf))]
    weights, ids = (
        lowering.private(
            TensorType(type_of(value).dtype, type_of(value).shape), lowering.names.of(value)
        )
        for value in node.outputs
    )
    attrs = node.attrs
    scores = "".join(word.title() for word in str_of(attrs, "scores").split("_"))
    numbers = (float_of(attrs, name) for name in ("masked", "least", "epsilon", "scale"))
    settings = ", ".join(
        (
            str(int_of(attrs, "k")),
            str(int_of(attrs, "groups")),
            str(int_of(attrs, "top_groups")),
            "true" if str_of(attrs, "group_score") == "top2" else "false",
            "true" if bool_of(attrs, "normalized") else "false",
            *(float_literal(number) for number in numbers),
        )
    )
    function = f"route<Scores::{scores}, {type_.shape[1]}>"
    args = (
        Address(heads_of(logits)),
        *given,
        f"{{{settings}}}",
        Address(heads_of(weights)),
        Address(heads_of(ids)),
    )
    lowering.statements.append(Call(function, type_.shape[:1], args, node.outputs))
    return weights, ids


def _write(*functions: str) -> Lower:
    """Rows ``[heads, size]`` of a token, to the state; see kv.h."""

    def lower(lowering: Lowering, node: Node) -> Sequence[Tree]:
        state = node.inputs[0]
        while state not in lowering.operands:
            state = lowering.makers[state].inputs[0]
        memory_type = state.type
        if not isinstance(memory_type, StateType):
            raise RefusedError("what is written is not a state", node)
        dtype = memory_type.layers[int_of(node.attrs, "layer")].dtype
        memory = lowering.memory(state)
        slot = lowering.tree(node.inputs[-1])
        for function, value in zip(functions, node.inputs[1:-1], strict=True):
            type_ = type_of(value)
            made = lowering.made(value)
            name = lowering.names.of(value)
            if isinstance(made, Assembly):
                made = lowering.tree(value)
            rows = lowering.rows_of(made, TensorType(type_.dtype, type_.shape), name)
            _, heads, size = type_.shape
            args = (memory, str(heads), str(size), slot, Address(heads_of(_first_head(rows))))
            call = Call(f"{function}<{_ctype(dtype.value)}>", type_.shape[:1], args, node.outputs)
            lowering.statements.append(call)
        return (slot,)

    return lower


def _first_head(leaf: Leaf) -> Leaf:
    return Leaf(leaf.buffer, leaf.access.select(1, 0))


def _ctype(dtype: str) -> str:
    return {"f32": "float"}.get(dtype, dtype)


TABLE: Mapping[str, Lower] = {
    "rms_norm": _rms_norm,
    "layer_norm": _layer_norm,
    "rope": _rope,
    "moe_router": _moe_router,
    "kv_write": _write("write_keys", "write_values"),
    "latent_write": _write("write_latent"),
}

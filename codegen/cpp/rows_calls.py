"""Lowering of what functions of the headers do: scans, sorts, routers, packed tables, writes.

They are called on rows that lie in memory side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from graphopt.ir.dtype import DType
from graphopt.ir.graph import Node
from graphopt.ir.ops_spec import bool_of, float_of, int_of, str_of
from graphopt.ir.types import StateType, TensorType

from ..rows import index, reduce
from ..rows.lower import Lower, Lowering, type_of
from ..rows.pointwise import apply
from ..rows.tree import Assembly, Leaf, RefusedError, Tree, map_view
from .expression import float_literal
from .rows_lower import RowLowering
from .rows_statements import Address, Call

Native = Callable[[RowLowering, Node], Sequence[Tree | Assembly]]


def lines(
    lowering: RowLowering, tree: Tree, type_: TensorType, dim: int, name: str
) -> tuple[Leaf, list[int]]:
    """``tree`` in memory with ``dim`` innermost, and the order of dimensions that makes it so."""
    order = [other for other in range(len(type_.shape)) if other != dim] + [dim]
    moved = map_view(tree, lambda access: access.permute(order))
    if moved is None or not isinstance(type_.shape[dim], int):
        raise RefusedError("a scan or a sort goes over rows")
    turned = TensorType(type_.dtype, tuple(type_.shape[i] for i in order))
    return lowering.rows_of(moved, turned, name), order


def heads_of(leaf: Leaf) -> Leaf:
    """The first element of each line of a leaf."""
    return Leaf(leaf.buffer, leaf.access.select(len(leaf.access.shape) - 1, 0))


def _on_lines(function: str) -> Native:
    """A function ``f(line, count, out..)`` of each line along a dimension."""

    def lower(lowering: RowLowering, node: Node) -> Sequence[Tree]:
        type_, dim = type_of(node.inputs[0]), int_of(node.attrs, "dim")
        line, order = lines(lowering, lowering.tree(node.inputs[0]), type_, dim, "line")
        whole = node.op == "cumsum"
        if whole and line.kind == "bool":
            line = lowering.store(
                apply("cast(a, i64)", line, dtype=DType.I64),
                TensorType(DType.I64, line.access.shape),
                "line",
            )
        outer = line.access.shape[:-1]
        targets = []
        for output in node.outputs:
            own = type_of(output)
            keeps = node.op != "argmax"
            shape = (*outer, own.shape[dim]) if keeps else (*outer, 1)
            dtype = DType.F32 if own.dtype.is_float else own.dtype
            targets.append(lowering.private(TensorType(dtype, shape), lowering.names.of(output)))
        args: list[str | Address | Tree] = [Address(heads_of(line)), str(type_.shape[dim])]
        args += [str(node.attrs["k"])] if node.op == "topk" else []
        flag = {"topk": "largest", "sort": "descending"}.get(node.op)
        if flag is not None:
            args.append("true" if bool_of(node.attrs, flag) else "false")
        args += [Address(heads_of(target)) for target in targets]
        lowering.statements.append(Call(function, outer, tuple(args), node.outputs))
        back = [order.index(i) for i in range(len(order))]
        results: list[Tree] = [
            Leaf(target.buffer, target.access.permute(back)) for target in targets
        ]
        if node.op == "argmax":
            results = [reduce.kept(node, tree, (dim,)) for tree in results]
        return results

    return lower


def _unpacked(lowering: RowLowering, node: Node, ids: Tree) -> Leaf:
    """Rows of a packed table, in memory."""
    table, type_ = node.inputs[1], type_of(node.output)
    layout = lowering.layouts[table.name]
    if len(layout.parts) > 1 or layout.batch > 1 or layout.transposed:
        raise RefusedError("the table is packed in a way that gives no rows", node)
    packed = lowering.memory(table)
    if layout.quant is not None:
        packed = f"(const Quantized<{layout.quant.bits}, {layout.quant.group}>*){packed}"
    target = lowering.private(type_, lowering.names.of(node.output))
    args = (packed, ids, str(type_.shape[-1]), Address(heads_of(target)))
    lowering.statements.append(Call("row_of", type_.shape[:-1], args, node.outputs))
    return target


def _table(plain: Lower) -> Native:
    """Rows of a table, packed or not."""

    def lower(lowering: RowLowering, node: Node) -> Sequence[Tree | Assembly]:
        table = node.inputs[1]
        if table.name not in lowering.layouts or not table.is_weight:
            return plain(lowering, node)
        rows = _unpacked(lowering, node, lowering.tree(node.inputs[0]))
        return (index.scaled(rows, node),)

    return lower


def _moe_router(lowering: RowLowering, node: Node) -> Sequence[Tree]:
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


def _write(*functions: str) -> Native:
    """Rows ``[heads, size]`` of a token, to the state; see kv.h."""

    def lower(lowering: RowLowering, node: Node) -> Sequence[Tree]:
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


def _native(lower: Native) -> Lower:
    def checked(lowering: Lowering, node: Node) -> Sequence[Tree | Assembly]:
        if not isinstance(lowering, RowLowering):
            raise TypeError(f"{node.op} is lowered to a function of the C++ headers")
        return lower(lowering, node)

    return checked


TABLE: Mapping[str, Lower] = {
    name: _native(lower)
    for name, lower in {
        "argmax": _on_lines("argmax"),
        "cumsum": _on_lines("running_sum"),
        "topk": _on_lines("top_k"),
        "sort": _on_lines("sort_line"),
        "embed": _table(index.TABLE["embed"]),
        "quantized_embed": _table(index.TABLE["quantized_embed"]),
        "moe_router": _moe_router,
        "kv_write": _write("write_keys", "write_values"),
        "latent_write": _write("write_latent"),
    }.items()
}

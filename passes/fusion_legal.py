"""What one kernel may compute: which operators belong to which family, and what may be fused.

Legality only; whether a fusion is worth it stands in ``fusion_cost``. Each answer is a ``Verdict``,
and a refusal names the values at fault.
"""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet

from graphopt.ir.graph import Graph, Node, Value
from graphopt.ir.ops import is_pointwise, is_view
from graphopt.ir.ops_spec import int_of, ints_of
from graphopt.ir.shape import Dim, evaluate, product
from graphopt.ledger import Verdict, accept, refuse
from graphopt.region import base_of, is_alias

from .groups import Group, Groups
from .layout import moves_only_ones
from .manager import AT_ONE_TOKEN
from .typed import shape_of

Shape = tuple[Dim, ...]

# Each element of the result stands in one place of one operand, which its own place tells.
INDEXED = frozenset(
    {
        "concat",
        "pad_constant",
        "flip",
        "roll",
        "repeat_interleave",
        "full",
        "iota",
        "tril",
        "triu",
        "one_hot",
        "rope",
    }
)
GATHERS = frozenset({"embed", "quantized_embed", "index_select", "gather"})
TABLES = frozenset({"embed", "quantized_embed"})
REDUCTIONS = frozenset({"sum", "mean", "amax", "amin", "prod", "any", "var"})
# Operators over a dimension that a kernel keeps whole, by the attribute that names it.
ALONG = frozenset({"softmax", "log_softmax", "argmax"})
ANCHORS = {
    "linear": "linear",
    "quantized_linear": "linear",
    "fp8_linear": "linear",
    "attention": "attention",
    "kv_write": "heads",
    "latent_write": "heads",
    "moe_experts": "experts",
    "quantized_experts": "experts",
    "matmul": "matmul",
}
ELEMENTWISE = frozenset({"pointwise", "row", "gather"})


def family_of(graph: Graph, node: Node) -> tuple[str, Node | None] | None:
    """The family that a node belongs to alone, and its anchor; None if it computes nothing."""
    if is_alias(graph, node):
        return None
    if node.op in ANCHORS:
        return ANCHORS[node.op], node
    if node.op in GATHERS:
        return "gather", None
    if _reduces_rows(node):
        return "row", None
    if is_view(node.op):
        return "view", None
    if is_pointwise(node.op) or node.op in INDEXED:
        return "pointwise", None
    return "opaque", None


def space_of(node: Node) -> Shape:
    """The shape that a node's kernel walks over."""
    if _reduces_rows(node) and node.inputs:
        return shape_of(node.inputs[0])
    return shape_of(node.output)


def may_join(groups: Groups, one: Group, other: Group) -> Verdict:
    """Whether one kernel may compute two groups of elementwise families: legality only.

    ``one`` comes first if one of them reads the other.
    """
    for group in (one, other):
        if group.family not in ELEMENTWISE:
            return refuse(f"a {group.family} region takes no part in it", *_results(groups, group))
    family = joined_family(one, other)
    if moved := _moved_inside(groups, one, other, family):
        return refuse(
            f"{moved.op} reads other places of what the kernel is still making", *moved.inputs
        )
    first, second = _space(groups, one), _space(groups, other)
    if family == "pointwise":
        if not (
            product(first) == product(second)
            or _fills(first, second)
            or _fills(second, first)
            or _fills_as_read(groups, one, other)
        ):
            return refuse(
                f"they walk over {_text(first)} and {_text(second)}", *_results(groups, one)
            )
    elif not (_same_rows(first, second) or _is_result(groups, one, second)):
        return refuse(
            f"their rows differ: {_text(first)} and {_text(second)}", *_results(groups, one)
        )
    return nothing_between(groups, one, other)


def may_follow(groups: Groups, linear: Group, other: Group) -> Verdict:
    """Whether ``other``, which reads ``linear``'s result, may be its epilogue."""
    anchor = linear.anchor
    if anchor is None or other.family != "pointwise":
        return refuse(
            f"a {other.family} region needs more than one tile of the result",
            *_results(groups, other),
        )
    rows, columns = product(shape_of(anchor.output)[:-1]), shape_of(anchor.output)[-1]
    for node in groups.nodes(other):
        if node.op in INDEXED:
            return refuse(f"{node.op} moves elements from tile to tile", *node.outputs)
        if moved := _moved_view(groups, node, _made(groups, linear, other)):
            return refuse(f"{moved.op} moves elements from tile to tile", *moved.outputs)
        walked = product(space_of(node))
        if walked != rows * columns and not _is_part(node, walked, rows, columns):
            return refuse(
                f"it walks over {_text(space_of(node))}, not over the result's "
                f"{_text(shape_of(anchor.output))}",
                *node.outputs,
            )
    return nothing_between(groups, linear, other)


def may_precede(groups: Groups, other: Group, linear: Group) -> Verdict:
    """Whether ``other``, which makes the rows that ``linear`` reads, may be its prologue."""
    anchor = linear.anchor
    if anchor is None:
        return refuse("there is no linear map")
    source = anchor.inputs[0]
    results = _made(groups, other)
    for value in results:
        if groups.is_returned(value) or any(
            groups.of(node) is not linear for node in groups.outside_readers(other, value)
        ):
            return refuse("its result is read elsewhere too", value)
    width = shape_of(source)[-1]
    for node in groups.nodes(other):
        if node.op == "rms_norm" and shape_of(node.output)[-1] == width:
            if moved := _moved_view(groups, anchor, results):
                return refuse(
                    f"{moved.op} gives the linear map other rows than the norm's", *moved.outputs
                )
            continue
        if node.op == "index_select" and node.attrs["dim"] == 0:
            continue
        if node.op == "layer_norm":
            return refuse("the mean has to be known before the first product", node.output)
        if other.family != "pointwise" or node.op in INDEXED:
            return refuse(f"{node.op} is no work on one row of the input", node.output)
        if product(space_of(node)) != product(shape_of(source)):
            return refuse(f"it walks over {_text(space_of(node))}", node.output)
    return nothing_between(groups, other, linear)


def nothing_between(groups: Groups, one: Group, other: Group) -> Verdict:
    """Whether no third group has to run between two."""
    third = groups.in_the_way(one, other)
    if third is not None:
        return refuse("something between them has to run first", *_results(groups, third))
    return accept()


def joined_family(one: Group, other: Group) -> str:
    """The family of two elementwise groups together."""
    families = {one.family, other.family}
    return next(name for name in ("gather", "row", "pointwise") if name in families)


def _reduces_rows(node: Node) -> bool:
    """Whether a node works along whole rows: over the last dimension of its input."""
    if not node.inputs:
        return False
    rank = len(shape_of(node.inputs[0]))
    if node.op == "rms_norm" or node.op == "moe_router":
        return True
    if node.op == "layer_norm":
        return node.attrs["axes"] == 1
    if node.op in REDUCTIONS:
        return node.attrs["dims"] == (rank - 1,)
    return node.op in ALONG and node.attrs["dim"] == rank - 1


def _space(groups: Groups, group: Group) -> Shape:
    """The space with the most elements that a node of the group walks over, the first of equals."""
    spaces = [space_of(node) for node in groups.nodes(group)]
    return max(spaces, key=lambda space: evaluate(product(space), AT_ONE_TOKEN))


def _fills(small: Shape, large: Shape) -> bool:
    """Whether the small shape, repeated, gives the large one."""
    padded = (1,) * (len(large) - len(small)) + small
    return len(padded) == len(large) and all(
        a in (1, b) for a, b in zip(padded, large, strict=True)
    )


def _fills_as_read(groups: Groups, one: Group, other: Group) -> bool:
    """Whether all that one group makes, under the shapes that another reads it by, fills its space.

    A column that was made as a row is read as a column.
    """
    space = _space(groups, other)
    read = [v for n in groups.nodes(other) for v in n.inputs if groups.maker(v) is one]
    return bool(read) and all(
        product(shape_of(value)) == product(_space(groups, one)) and _fills(shape_of(value), space)
        for value in read
    )


def _same_rows(one: Shape, other: Shape) -> bool:
    """Whether two spaces have the same rows: one may keep a single number of each."""
    if not one or not other:
        return False
    if product(one[:-1]) == product(other[:-1]):
        return one[-1] == other[-1] or 1 in (one[-1], other[-1])
    return product(one[:-1]) == product(other) or product(one) == product(other[:-1])


def _moved_inside(groups: Groups, one: Group, other: Group, family: str) -> Node | None:
    """A node that would read, at another place than it writes, what the same kernel makes.

    Pointwise work can be done again for another place; a reduction cannot.
    """
    made = _made(groups, one, other)
    for node in (*groups.nodes(one), *groups.nodes(other)):
        if node.op in GATHERS:
            table = node.inputs[1] if node.op in TABLES else node.inputs[0]
            if base_of(groups.graph, table) in made:
                return node
        elif family == "pointwise":
            continue
        elif node.op in INDEXED and _reads(groups, node, made):
            return node
        elif moved := _moved_view(groups, node, made):
            return moved
    return None


def _moved_view(groups: Groups, node: Node, made: AbstractSet[Value]) -> Node | None:
    """A view through which ``node`` reads other rows of ``made`` than the one it works on.

    A cut along a dimension inside of a row is none.
    """
    for value in node.inputs:
        base = base_of(groups.graph, value)
        if base not in made:
            continue
        row = shape_of(base)[-1] if shape_of(base) else 1
        while value is not base:
            view = groups.graph.producers[value]
            if _moves_rows(view, row):
                return view
            value = view.inputs[0]
    return None


def _moves_rows(view: Node, row: Dim) -> bool:
    """Whether a view of rows of ``row`` elements gives an element a place in another row."""
    if view.op == "permute":
        return not moves_only_ones(shape_of(view.output), ints_of(view.attrs, "dims"))
    if view.op in ("slice", "select", "split"):
        inside = product(shape_of(view.inputs[0])[int_of(view.attrs, "dim") :])
        return not (isinstance(inside, int) and isinstance(row, int) and row % inside == 0)
    return False


def _made(groups: Groups, *some: Group) -> AbstractSet[Value]:
    """What the nodes of some groups make, in running order."""
    nodes = (node for group in some for node in groups.nodes(group))
    return dict.fromkeys(value for node in nodes for value in node.outputs).keys()


def _reads(groups: Groups, node: Node, made: AbstractSet[Value]) -> bool:
    return any(base_of(groups.graph, value) in made for value in node.inputs)


def _is_result(groups: Groups, one: Group, space: Shape) -> bool:
    """Whether a space is that of something a group makes of its rows, such as their best few."""
    return any(
        shape_of(value) == space and product(space[:-1]) == product(space_of(node)[:-1])
        for node in groups.nodes(one)
        for value in node.outputs
    )


def _is_part(node: Node, walked: Dim, rows: Dim, columns: Dim) -> bool:
    """Whether a node walks over equal parts of the result's columns, as a gated unit does."""
    shape = space_of(node)
    if not shape or not isinstance(columns, int) or not isinstance(shape[-1], int):
        return False
    return columns % shape[-1] == 0 and walked == rows * shape[-1]


def _results(groups: Groups, group: Group) -> Sequence[Value]:
    return groups.nodes(group)[-1].outputs


def _text(shape: Shape) -> str:
    return f"[{', '.join(map(str, shape))}]"

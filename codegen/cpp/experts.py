"""Layers of experts as kernels.

before:  a region with one ``moe_experts``
after:   a kernel that groups tokens by expert, and reads each expert's weights once

The weights are packed one expert after the other, rows being what a layer gives, also where the
model has them transposed. Gate and up, halves or every second row of the first layer, each begin
with a panel.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph, Node, Value
from graphopt.ir.ops import ACTIVATIONS
from graphopt.ir.ops_spec import bool_of, float_of, str_of
from graphopt.ir.shape import Dim
from graphopt.ir.types import TensorType
from graphopt.ledger import Verdict, refuse
from graphopt.packing import Layout
from graphopt.region import Region

from ..render import render
from ..rows.access import Access
from ..rows.arguments import Kind, arguments
from ..rows.names import Names
from ..rows.program import comment
from ..rows.views import view_of
from .expression import CTYPES, Term, cpp_expression, dim_text, float_literal
from .kernel import Kernel, named_kernel
from .rows import buffer_of, pointer
from .sizes import BLOCK_ROWS, BLOCK_SCRATCH, row_stride

HEADERS = ("math.h", "experts.h")
# What the template calls things.
_TAKEN = ("sizes", "expert", "column", "count", "wide", "gate", "up", "between", "bias")


@dataclass(frozen=True, slots=True)
class _Sizes:
    """Sizes of a layer: tokens, experts of a token, experts, and the two layers' columns."""

    tokens: Dim
    chosen: int
    experts: int
    hidden: int
    narrow: int


class _RefusedError(Exception):
    """There is no kernel: the verdict."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(verdict.reason)
        self.verdict = verdict


def experts_layouts(graph: Graph, region: Region) -> dict[str, Layout]:
    """How the kernel of an experts region wants its weights packed, by name."""
    node = _layer(graph, region)
    first, second = node.inputs[3:5]
    if not (first.is_weight and second.is_weight):
        return {}
    try:
        n = _sizes(node)
    except _RefusedError:
        return {}
    transposed = bool_of(node.attrs, "transposed")
    parts = _parts(node, n)
    return {
        first.name: Layout(
            sum(len(range(*part)) for part in parts), n.hidden, parts, n.experts, None, transposed
        ),
        second.name: Layout.whole(n.hidden, n.narrow, batch=n.experts, transposed=transposed),
    }


def experts_kernel(graph: Graph, region: Region, layouts: Mapping[str, Layout]) -> Kernel | Verdict:
    """The kernel of an experts region, or why there is none."""
    node = _layer(graph, region)
    wanted = experts_layouts(graph, region)
    for weight in node.inputs[3:5]:
        if weight.name not in wanted or layouts.get(weight.name) != wanted[weight.name]:
            return refuse("the weights of its experts are not packed for it", weight)
    if node.output not in region.outputs or len(region.outputs) != 1:
        return refuse("it gives something else than the experts' sum", *region.outputs)
    try:
        return _kernel(graph, region, node, _sizes(node))
    except _RefusedError as error:
        return error.verdict


def _kernel(graph: Graph, region: Region, node: Node, n: _Sizes) -> Kernel:
    names = Names(graph)
    for word in _TAKEN:
        names.fresh(word, number=False)
    given = arguments(graph, region)
    buffers = {one: buffer_of(one, names) for one in given}
    known = {one.value: buffer.name for one, buffer in buffers.items()}

    def matrix(value: Value) -> str:
        """The ``Strided`` of an operand."""
        view = view_of(graph, region, value)
        if view is None or len(view.access.shape) != 2:
            raise _RefusedError(refuse("an operand is no matrix of strides", value))
        return strided(known[view.operand], view.operand, view.access)

    x, ids, weights, first, second, *biases = node.inputs
    text = render(
        "cpp/experts.jinja",
        title=f"{region.name or region.family} of {region.scope or 'the model'}",
        comments=comment(names.line(node)),
        pointers=[pointer(one, buffer.name) for one, buffer in buffers.items()],
        tokens=dim_text(n.tokens),
        chosen=n.chosen,
        experts=n.experts,
        hidden=n.hidden,
        narrow=n.narrow,
        parts=_gate_parts(node, n, known[biases[0]] if biases else ""),
        result=_result(node),
        bias=f"load_n({known[biases[1]]} + expert * {n.hidden} + column, count)"
        if biases
        else "zeros()",
        x=matrix(x),
        ids=matrix(ids),
        weights=matrix(weights),
        first=known[first],
        second=known[second],
        y=next(buffer.name for one, buffer in buffers.items() if one.kind is Kind.RESULT),
        workspace=len(given),
    )
    return named_kernel(
        region.name or region.family,
        text,
        HEADERS,
        scratch_bytes=experts_scratch_bytes(n.hidden),
        workspace=experts_workspace_bytes(n.tokens, n.chosen, n.experts, n.hidden, n.narrow),
    )


def strided(name: str, operand: Value, access: Access) -> str:
    """The C++ of a matrix in an operand that ``name`` points to."""
    ctype = CTYPES[_tensor(operand).dtype]
    start = name if access.offset == 0 else f"{name} + {dim_text(access.offset)}"
    row, column = map(dim_text, access.strides)
    return f"Strided<{ctype}>{{{start}, {row}, {column}}}"


def experts_workspace_bytes(
    tokens: Dim, chosen: int, experts: int, hidden: int, narrow: int
) -> Dim:
    """Bytes that all threads share: what the second layer reads, sums, and where tokens go."""
    pairs = tokens * chosen
    rows = pairs * row_stride(narrow) + tokens * row_stride(hidden)
    return 4 * (rows + row_stride(experts) + pairs)


def experts_scratch_bytes(hidden: int) -> int:
    """Bytes that each thread has for itself: rows of x, and sums of a block."""
    return 4 * BLOCK_ROWS * row_stride(hidden) + BLOCK_SCRATCH


def _layer(graph: Graph, region: Region) -> Node:
    nodes = (graph.nodes[place] for place in region.nodes)
    return next(node for node in nodes if node.op == "moe_experts")


def _sizes(node: Node) -> _Sizes:
    """The sizes of a layer.

    Raises:
        _RefusedError: one that the weights have is not fixed, or zero; or numbers of a type that
            no weights are packed of.
    """
    x, ids, _, first, second = map(_tensor, node.inputs[:5])
    if first.dtype not in (DType.F32, DType.BF16, DType.F16):
        raise _RefusedError(refuse(f"no experts are computed in {first.dtype}", node.inputs[3]))
    narrow = second.shape[1 if bool_of(node.attrs, "transposed") else 2]
    fixed = (ids.shape[1], first.shape[0], x.shape[1], narrow)
    whole = [size for size in fixed if isinstance(size, int) and size > 0]
    if len(whole) < len(fixed):
        raise _RefusedError(refuse("the experts have no fixed size", *node.inputs[1:5]))
    return _Sizes(x.shape[0], *whole)


def _parts(node: Node, n: _Sizes) -> tuple[tuple[int, int, int], ...]:
    """The rows of the first layer that are gate and up, or all of them."""
    if not bool_of(node.attrs, "gated"):
        return ((0, n.narrow, 1),)
    wide = 2 * n.narrow
    if str_of(node.attrs, "form").startswith("interleaved"):
        return (0, wide, 2), (1, wide, 2)
    return (0, n.narrow, 1), (n.narrow, wide, 1)


def _gate_parts(node: Node, n: _Sizes, bias: str) -> list[dict[str, str]]:
    """What the first layer gives, named, with its bias added and between its limits."""
    parts = _parts(node, n)
    limit = float_literal(float_of(node.attrs, "limit"))
    limits: Sequence[str] = ("", "")
    if len(parts) == 2 and str_of(node.attrs, "form") not in ("concat", "interleaved"):
        low = float_literal(-float_of(node.attrs, "limit"))
        limits = (
            f"minimum(gate, splat({limit}))",
            f"minimum(maximum(up, splat({low})), splat({limit}))",
        )
    found = []
    for name, (start, _, step), limited in zip(("gate", "up"), parts, limits, strict=False):
        place = f"{bias} + expert * {n.narrow * len(parts)}" + (f" + {start}" if start else "")
        load = (
            f"load_n({place} + column, count)"
            if step == 1
            else (f"load_every<{step}>({place} + {step} * column, count)")
        )
        found.append({"name": name, "bias": load if bias else "", "limited": limited})
    return found


def _result(node: Node) -> str:
    """What the second layer reads, of ``gate`` and ``up``; see ``ops_nn.EXPERT_FORMS``."""
    activation = ACTIVATIONS[str_of(node.attrs, "activation")]
    if not bool_of(node.attrs, "gated"):
        scalar = activation
    elif str_of(node.attrs, "form").endswith("clamped"):
        scalar = f"a / (1.0 + exp(-a * {float_of(node.attrs, 'alpha')!r})) * (b + 1.0)"
    else:
        scalar = f"({activation}) * b"
    operands = {"a": Term("gate", "float", True), "b": Term("up", "float", True)}
    return cpp_expression(scalar, operands, DType.F32).spread()


def _tensor(value: Value) -> TensorType:
    if not isinstance(value.type, TensorType):
        raise _RefusedError(refuse("state is read as a tensor", value))
    return value.type

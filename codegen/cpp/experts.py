"""Layers of experts as kernels.

before:  a region with one ``moe_experts`` or ``quantized_experts``
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
from graphopt.ir.ops_spec import bool_of, float_of, int_of, str_of
from graphopt.ir.shape import Dim
from graphopt.ir.types import TensorType
from graphopt.ledger import Verdict, refuse
from graphopt.packing import Layout, Quant
from graphopt.quantization import GROUPS
from graphopt.region import Region

from ..render import render
from ..rows.access import Access
from ..rows.arguments import Kind, arguments
from ..rows.names import Names
from ..rows.program import comment
from ..rows.views import view_of
from .expression import CTYPES, Term, cpp_expression, dim_text, float_literal
from .kernel import Kernel, named_kernel
from .quant_sizes import quant_experts_scratch, quant_experts_workspace
from .rows import buffer_of, pointer
from .sizes import BLOCK_ROWS, BLOCK_SCRATCH, row_stride

HEADERS = ("math.h", "experts.h")
QUANT_HEADERS = ("math.h", "experts_quant.h")
OPERATORS = ("moe_experts", "quantized_experts")
# What the template calls things.
_TAKEN = ("Q", "sizes", "expert", "column", "count", "wide", "gate", "up", "between", "bias")


@dataclass(frozen=True, slots=True)
class _Sizes:
    """Sizes of a layer: tokens, experts of a token, experts, and the two layers' columns."""

    tokens: Dim
    chosen: int
    experts: int
    hidden: int
    narrow: int


@dataclass(frozen=True, slots=True)
class _Operands:
    """What a layer reads.

    Attributes:
        x: rows of tokens.
        ids: the experts of each.
        shares: how much each expert gives.
        first: the first layer's weights, gate and up.
        second: the second layer's.
        scales: those of both, if their weights are of few bits.
        biases: of both, or none.
        quant: how weights are rounded.
        transposed: whether the model has them as columns by rows.
    """

    x: Value
    ids: Value
    shares: Value
    first: Value
    second: Value
    scales: tuple[Value, ...]
    biases: tuple[Value, ...]
    quant: Quant | None
    transposed: bool

    @classmethod
    def of(cls, node: Node) -> _Operands:
        """The operands of a layer of experts."""
        x, ids, shares, *rest = node.inputs
        if node.op == "moe_experts":
            first, second, *biases = rest
            transposed = bool_of(node.attrs, "transposed")
            return cls(x, ids, shares, first, second, (), tuple(biases), None, transposed)
        first, first_scales, second, second_scales, *biases = rest
        quant = Quant(int_of(node.attrs, "bits"), int_of(node.attrs, "group"))
        scales = (first_scales, second_scales)
        return cls(x, ids, shares, first, second, scales, tuple(biases), quant, False)

    @property
    def weights(self) -> tuple[Value, ...]:
        """All that has to be a weight for the layer's to be packed."""
        return (self.first, self.second, *self.scales)


class _RefusedError(Exception):
    """There is no kernel: the verdict."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(verdict.reason)
        self.verdict = verdict


def experts_layouts(graph: Graph, region: Region) -> dict[str, Layout]:
    """How the kernel of an experts region wants its weights packed, by name."""
    node = _layer(graph, region)
    layer = _Operands.of(node)
    if not all(value.is_weight for value in layer.weights):
        return {}
    try:
        n = _sizes(node, layer)
    except _RefusedError:
        return {}
    first, second = (value.name for value in (layer.first, layer.second))
    scales = [value.name for value in layer.scales] or ["", ""]
    parts = _parts(node, n)
    rows = sum(len(range(*part)) for part in parts)
    how = (n.experts, layer.quant, layer.transposed)
    return {
        first: Layout(rows, n.hidden, parts, *how, scales[0]),
        second: Layout(n.hidden, n.narrow, ((0, n.hidden, 1),), *how, scales[1]),
    }


def experts_kernel(graph: Graph, region: Region, layouts: Mapping[str, Layout]) -> Kernel | Verdict:
    """The kernel of an experts region, or why there is none."""
    node = _layer(graph, region)
    wanted = experts_layouts(graph, region)
    layer = _Operands.of(node)
    for weight in (layer.first, layer.second):
        if weight.name not in wanted or layouts.get(weight.name) != wanted[weight.name]:
            return refuse("the weights of its experts are not packed for it", weight)
    if node.output not in region.outputs or len(region.outputs) != 1:
        return refuse("it gives something else than the experts' sum", *region.outputs)
    try:
        return _kernel(graph, region, node, _sizes(node, layer))
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

    layer = _Operands.of(node)
    biases, quant = layer.biases, layer.quant
    element = f"Quantized<{quant.bits}, {quant.group}>" if quant is not None else ""
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
        x=matrix(layer.x),
        ids=matrix(layer.ids),
        weights=matrix(layer.shares),
        element=element,
        first=known[layer.first],
        second=known[layer.second],
        y=next(buffer.name for one, buffer in buffers.items() if one.kind is Kind.RESULT),
        workspace=len(given),
    )
    sizes = (n.tokens, n.chosen, n.experts, n.hidden, n.narrow)
    return named_kernel(
        region.name or region.family,
        text,
        HEADERS if quant is None else QUANT_HEADERS,
        scratch_bytes=experts_scratch_bytes(n.hidden)
        if quant is None
        else quant_experts_scratch(n.hidden, quant),
        workspace=experts_workspace_bytes(*sizes)
        if quant is None
        else quant_experts_workspace(*sizes, quant),
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
    return next(node for node in nodes if node.op in OPERATORS)


def _sizes(node: Node, layer: _Operands) -> _Sizes:
    """The sizes of a layer.

    Raises:
        _RefusedError: one that the weights have is not fixed, or zero; numbers of a type that is
            not computed in; or weights of so few bits as no kernel reads.
    """
    x, ids, first, second = map(_tensor, (layer.x, layer.ids, layer.first, layer.second))
    if x.dtype not in (DType.F32, DType.BF16, DType.F16):
        raise _RefusedError(refuse(f"no experts are computed in {x.dtype}", layer.x))
    if (quant := layer.quant) is not None and GROUPS.get(quant.bits) != quant.group:
        few = f"{quant.bits} bits in groups of {quant.group}"
        raise _RefusedError(refuse(f"no kernel reads weights of {few}", layer.first))
    narrow = second.shape[1 if layer.transposed else 2]
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
    operands = {one: Term(name, "float", vector=True) for one, name in (("a", "gate"), ("b", "up"))}
    return cpp_expression(scalar, operands, DType.F32).spread()


def _tensor(value: Value) -> TensorType:
    if not isinstance(value.type, TensorType):
        raise _RefusedError(refuse("state is read as a tensor", value))
    return value.type

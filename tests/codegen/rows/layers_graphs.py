"""Graphs of norms, rotary positions, routers, and writes of keys and values."""

from __future__ import annotations

from itertools import product

from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph
from graphopt.ir.ops_router import GROUP_SCORES, SCORES
from graphopt.ir.shape import sym
from graphopt.ir.types import LayerState, StateType, TensorType

from .cases import chain, operation

T, R = sym("T"), sym("R")
F32, BF16, F16, I64, BOOL = DType.F32, DType.BF16, DType.F16, DType.I64, DType.BOOL


def norms() -> list[Graph]:
    """Norms of rows and of heads, of every float, with and without weights."""
    graphs = []
    for dtype, width in product((F32, BF16, DType.F16), (1, 16, 83)):
        x, w = TensorType(dtype, (T, width)), TensorType(dtype, (width,))
        heads = TensorType(dtype, (T, 3, width))
        graphs += [
            operation("rms_norm", [x, w], eps=1e-6, offset=1.0, cast="after"),
            operation("rms_norm", [heads, w], eps=1e-6),
            operation("rms_norm", [x], eps=1e-5),
            operation("layer_norm", [x, w, w], eps=1e-5),
            operation("layer_norm", [heads, w], eps=1e-5, has_bias=False),
            operation("layer_norm", [x], eps=1e-5, has_bias=False, has_weight=False),
        ]
    w = TensorType(F32, (3, 16))
    return [*graphs, operation("layer_norm", [TensorType(F32, (T, 3, 16)), w, w], eps=1e-5, axes=2)]


def ropes() -> list[Graph]:
    """Rotary positions of halves and of pairs, of all of a head and of parts."""
    graphs = []
    for interleaved, offset, pairs in product((False, True), (0, 3), (8, 21)):
        x, table = TensorType(BF16, (T, 3, 48)), TensorType(BF16, (T, pairs))
        graphs.append(operation("rope", [x, table, table], interleaved=interleaved, offset=offset))
    table = TensorType(F32, (T, 8))
    return [*graphs, operation("rope", [TensorType(F32, (T, 2, 16)), table, table])]


def routers() -> list[Graph]:
    """Every kind of score, normalized or not; groups of experts."""
    logits, bias = TensorType(F32, (T, 24)), TensorType(F32, (24,))
    graphs = [
        operation("moe_router", [logits], k=k, scores=scores, normalized=normalized, scale=2.0)
        for scores, normalized, k in product(SCORES, (False, True), (1, 6))
    ]
    graphs += [
        operation(
            "moe_router",
            [logits, bias],
            k=4,
            scores="sigmoid",
            groups=6,
            top_groups=3,
            group_score=group_score,
            masked=masked,
            normalized=True,
            least=0.5,
            epsilon=1e-20,
        )
        for group_score, masked in product(GROUP_SCORES, (0.0, float("-inf")))
    ]
    wide, single = TensorType(BF16, (T, 24)), TensorType(F32, (T, 1))
    graphs.append(operation("moe_router", [single], k=1, scores="sigmoid"))
    return [*graphs, operation("moe_router", [wide], k=3, scores="chosen_softmax")]


def _written(kind: str, heads: int, key: int, value: int, dtype: DType) -> Graph:
    state = StateType(kind, (LayerState(heads, key, value, dtype),) * 2)
    slots = TensorType(I64, (T,))
    keys, values = TensorType(dtype, (T, heads, key)), TensorType(dtype, (T, heads, value))

    def make(b, given):  # type: ignore[no-untyped-def]
        memory = b.input("kv", state)
        rows = given[:-1]
        rows[0] = b.one("tanh", [rows[0]])
        return [b.one(f"{kind}_write", [memory, *rows, given[-1]], {"layer": 1})]

    return chain([keys, *([values] if kind == "kv" else []), slots], make)


def writes() -> list[Graph]:
    """Keys and values of several sizes and types, to state."""
    shapes = ((1, 7, 5), (3, 16, 20))
    graphs = [_written("kv", *shape, dtype) for shape in shapes for dtype in (F32, BF16, F16)]
    return [*graphs, _written("latent", 1, 21, 9, BF16)]

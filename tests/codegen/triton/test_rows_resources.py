"""What row kernels of real models take of a GPU: nothing is spilled, large operands load wide."""

from __future__ import annotations

from functools import cache

import pytest

from graphopt.codegen.triton.compile import compile_variant
from graphopt.codegen.triton.kernel import TritonKernel
from graphopt.codegen.triton.resources import resources_of
from graphopt.codegen.triton.rows import rows_kernel
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph
from graphopt.ir.shape import sym
from graphopt.ir.types import LayerState, StateType, TensorType

from ..rows.cases import chain, operation, whole

T, R = sym("T"), sym("R")
F32, BF16, I64 = DType.F32, DType.BF16, DType.I64


def _tensor(dtype: DType, *shape: object) -> TensorType:
    return TensorType(dtype, tuple(shape))  # type: ignore[arg-type]


def _add_norm(hidden: int) -> Graph:
    """The residual and its norm."""
    rows = _tensor(BF16, T, hidden)

    def make(b, x):  # type: ignore[no-untyped-def]
        total = b.one("add", x[:2])
        return [total, b.one("rms_norm", [total, x[2]], {"eps": 1e-6})]

    return chain([rows, rows, _tensor(BF16, hidden)], make)


def _heads(
    queries: int, keys: int, size: int, *, normed: bool = True, offset: float = 0.0
) -> Graph:
    """Norms of heads, rotary positions, and the write of keys and values."""
    state = StateType("kv", (LayerState(keys, size, size, BF16),) * 2)
    sizes = (queries * size, keys * size, keys * size)

    def make(b, x):  # type: ignore[no-untyped-def]
        parts = b.node("split", x[:1], {"sizes": sizes, "dim": 1})
        shapes = ((T, queries, size), (T, keys, size), (T, keys, size))
        q, k, v = (
            b.one("reshape", [part], {"shape": shape})
            for part, shape in zip(parts, shapes, strict=True)
        )
        if normed:
            attrs = {"eps": 1e-6, "offset": offset}
            q, k = (b.one("rms_norm", pair, attrs) for pair in ([q, x[4]], [k, x[5]]))
        q, k = (b.one("rope", [one, x[1], x[2]]) for one in (q, k))
        return [q, b.one("kv_write", [b.input("kv", state), k, v, x[3]], {"layer": 1})]

    table, weight = _tensor(BF16, T, size // 2), _tensor(BF16, size)
    operands = [_tensor(BF16, T, sum(sizes)), table, table, _tensor(I64, T), weight, weight]
    return chain(operands, make)


def _last_rows(hidden: int) -> Graph:
    """The rows whose logits are wanted, and their norm."""
    operands = [_tensor(BF16, T, hidden), _tensor(I64, R), _tensor(BF16, hidden)]

    def make(b, x):  # type: ignore[no-untyped-def]
        return [b.one("rms_norm", [b.one("index_select", x[:2], {"dim": 0}), x[2]], {"eps": 1e-6})]

    return chain(operands, make)


def _glu_of_halves(width: int) -> Graph:
    def make(b, x):  # type: ignore[no-untyped-def]
        halves = b.node("split", x, {"sizes": (width, width), "dim": 1})
        return [b.one("glu", halves, {"activation": "silu"})]

    return chain([_tensor(BF16, T, 2 * width)], make)


def _router(experts: int, k: int, *, grouped: bool = False) -> Graph:
    operands = [_tensor(F32, T, experts)]
    if not grouped:
        return operation("moe_router", operands, k=k, scores="softmax", normalized=True)
    return operation(
        "moe_router",
        [*operands, _tensor(F32, experts)],
        k=k,
        scores="sigmoid",
        groups=8,
        top_groups=4,
        normalized=True,
        scale=2.5,
    )


GRAPHS = {
    "add_rms_norm qwen3-8b": _add_norm(4096),
    "add_rms_norm llama-3.2-1b": _add_norm(2048),
    "rms_norm gemma3-4b": operation(
        "rms_norm", [_tensor(BF16, T, 2560), _tensor(BF16, 2560)], eps=1e-6, offset=1.0
    ),
    "layer_norm gpt_neox": operation(
        "layer_norm", [_tensor(BF16, T, 6144), *[_tensor(BF16, 6144)] * 2], eps=1e-5
    ),
    "heads qwen3-8b": _heads(32, 8, 128),
    "heads gemma3-4b": _heads(8, 4, 256, offset=1.0),
    "heads llama-3.1-8b": _heads(32, 8, 128, normed=False),
    "heads llama-3.2-1b": _heads(32, 8, 64, normed=False),
    "glu qwen3-8b": operation("glu", [_tensor(BF16, T, 12288)] * 2, activation="silu"),
    "glu mixtral-8x7b": _glu_of_halves(14336),
    "embed qwen3-8b": operation("embed", [_tensor(I64, T), _tensor(BF16, 151936, 4096)]),
    "last rows llama-3.1-8b": _last_rows(4096),
    "softmax of a vocabulary": operation("softmax", [_tensor(F32, R, 128256)], dim=1),
    "router mixtral-8x7b": _router(8, 2),
    "router qwen3-30b-a3b": _router(128, 8),
    "router deepseek-v3": _router(256, 8, grouped=True),
}
# What has little to load.
SMALL = ("router mixtral-8x7b",)
LARGE = ("router deepseek-v3",)
MOST_REGISTERS = 128


@cache
def _kernel(name: str) -> TritonKernel:
    graph = GRAPHS[name]
    found = rows_kernel(graph, whole(graph))
    assert isinstance(found, TritonKernel), found
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    "arch", [90, pytest.param(80, marks=pytest.mark.full), pytest.param(89, marks=pytest.mark.full)]
)
@pytest.mark.parametrize(
    "name", [n if n not in LARGE else pytest.param(n, marks=pytest.mark.full) for n in GRAPHS]
)
def test_every_variant(name: str, arch: int) -> None:
    kernel = _kernel(name)
    for variant in kernel.variants:
        found = resources_of(compile_variant(kernel, variant, arch))
        assert found.problems() == [], (variant, found)
        assert found.registers <= MOST_REGISTERS, (variant, found)
        assert found.narrow_loads == 0, (variant, found)
        assert found.wide_loads > 0 or name in SMALL, (variant, found)

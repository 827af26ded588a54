"""The dense linear maps of models at their real sizes, with what is fused around them."""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.ir.builder import GraphBuilder
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph, Value
from graphopt.ir.shape import Dim, sym
from graphopt.ir.types import TensorType
from graphopt.region import Region, make_region

T, R = sym("T"), sym("R")


@dataclass(frozen=True, slots=True)
class Model:
    """The sizes of a decoder."""

    hidden: int
    queries: int
    key_values: int
    inner: int
    vocabulary: int


MODELS = {
    "llama-3.2-1b": Model(2048, 2048, 512, 8192, 128256),
    "qwen3-8b": Model(4096, 4096, 1024, 12288, 151936),
    "llama-3.1-8b": Model(4096, 4096, 1024, 14336, 128256),
    "gemma3-4b": Model(2560, 2048, 1024, 10240, 262144),
    "mixtral-8x7b": Model(4096, 4096, 1024, 0, 32000),
}
KINDS = ("qkv", "o", "gate_up", "down", "logits")


def shape_case(model: str, kind: str, dtype: DType = DType.BF16) -> tuple[Graph, Region] | None:
    """One linear map of a model; None if it has none of this kind."""
    size = MODELS[model]
    if kind in ("gate_up", "down") and not size.inner:
        return None
    b = GraphBuilder(kind)

    def tensor(name: str, *shape: int, rows: Dim = T) -> Value:
        return b.input(name, TensorType(dtype, (rows, *shape)))

    def weight(name: str, *shape: int) -> Value:
        return b.weight(name, TensorType(dtype, shape))

    def normed(x: Value) -> Value:
        scale = weight("norm.weight", size.hidden)
        return b.one("rms_norm", [x, scale], {"eps": 1e-6})

    def product(x: Value, n: int, k: int) -> Value:
        return b.one("linear", [x, weight(f"{kind}.weight", n, k)])

    match kind:
        case "qkv":
            columns = size.queries + 2 * size.key_values
            y = product(normed(tensor("x", size.hidden)), columns, size.hidden)
        case "o":
            y = product(tensor("x", size.queries), size.hidden, size.queries)
            y = b.one("add", [tensor("residual", size.hidden), y])
        case "gate_up":
            y = product(normed(tensor("x", size.hidden)), 2 * size.inner, size.hidden)
            sizes = (size.inner, size.inner)
            halves = b.node("split", [y], {"dim": 1, "sizes": sizes})
            y = b.one("glu", halves, {"activation": "silu"})
        case "down":
            y = product(tensor("x", size.inner), size.hidden, size.inner)
            y = b.one("add", [tensor("residual", size.hidden), y])
        case _:
            rows = b.input("rows", TensorType(DType.I64, (R,)))
            x = b.one("index_select", [tensor("x", size.hidden), rows], {"dim": 0})
            y = product(normed(x), size.vocabulary, size.hidden)
    graph = b.finish([y])
    return graph, make_region(graph, range(len(graph.nodes)), family="linear", name=kind)

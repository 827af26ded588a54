"""Graphs around one linear map: what comes before the product, and what comes after it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from graphopt.ir.builder import GraphBuilder
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph, Value
from graphopt.ir.shape import Dim, sym
from graphopt.ir.types import TensorType
from graphopt.quantization import quant_of
from graphopt.region import Region, make_region

T, R = sym("T"), sym("R")
N, K = 44, 70  # neither is a whole number of panels, nor of groups


class Around:
    """Builds one graph; ``rows`` is what sizes its rows."""

    def __init__(self, dtype: DType, bits: int = 0) -> None:
        self.b = GraphBuilder("around")
        self.dtype, self.bits = dtype, bits
        self.rows: Dim = T

    def input(self, name: str, *shape: Dim, dtype: DType | None = None) -> Value:
        return self.b.input(name, TensorType(dtype or self.dtype, shape))

    def weight(self, name: str, *shape: int, dtype: DType | None = None) -> Value:
        return self.b.weight(name, TensorType(dtype or self.dtype, shape))

    def product(self, x: Value, *, bias: bool = False, n: int = N) -> Value:
        """The linear map to ``n`` columns, of floats or of ``bits``."""
        biases = [self.weight("mlp.bias", n)] if bias else []
        if not self.bits:
            return self.b.one("linear", [x, self.weight("mlp.weight", n, K), *biases])
        quant = quant_of(self.bits)
        weights = [
            self.weight("mlp.weight", n, K, dtype=DType.I8),
            self.weight("mlp.scales", n, quant.groups(K), dtype=DType.F16),
        ]
        attrs = {"bits": quant.bits, "group": quant.group}
        return self.b.one("quantized_linear", [x, *weights, *biases], attrs)


Before = Callable[[Around], Value]
After = Callable[[Around, Value], list[Value]]


def plain(a: Around) -> Value:
    return a.input("x", a.rows, K)


def rms_norm(a: Around) -> Value:
    return a.b.one("rms_norm", [plain(a), a.weight("norm.weight", K)], {"eps": 1e-5})


def layer_norm(a: Around) -> Value:
    weights = [a.weight("norm.weight", K), a.weight("norm.bias", K)]
    return a.b.one("layer_norm", [plain(a), *weights], {"eps": 1e-5})


def gathered(a: Around) -> Value:
    """Only the rows that are asked for, normed."""
    x, rows = a.input("x", T, K), a.input("rows", R, dtype=DType.I64)
    a.rows = R
    taken = a.b.one("index_select", [x, rows], {"dim": 0})
    return a.b.one("rms_norm", [taken, a.weight("norm.weight", K)], {"eps": 1e-5})


def gated(a: Around) -> Value:
    """An operand that is itself a gate's: heads side by side, times a sigmoid."""
    heads = a.b.one("reshape", [a.input("x", a.rows, 7, K // 7)], {"shape": (a.rows, K)})
    return a.b.one("mul", [heads, a.b.one("sigmoid", [a.input("gate", a.rows, K)])])


def nothing(a: Around, x: Value) -> list[Value]:
    return [a.product(x)]


def biased(a: Around, x: Value) -> list[Value]:
    return [a.product(x, bias=True)]


def residual(a: Around, x: Value) -> list[Value]:
    return [a.b.one("add", [a.input("residual", a.rows, N), a.product(x)])]


def gelu(a: Around, x: Value) -> list[Value]:
    return [a.b.one("gelu", [a.product(x, bias=True)], {"approximate": "tanh"})]


def capped_and_wide(a: Around, x: Value) -> list[Value]:
    """A cap, and another type than the product's."""
    capped = a.b.one("softcap", [a.product(x)], {"cap": 3.0})
    return [a.b.one("cast", [capped], {"dtype": DType.F32})]


def two_results(a: Around, x: Value) -> list[Value]:
    y = a.product(x)
    return [y, a.b.one("relu", [y])]


def glu_of_halves(a: Around, x: Value) -> list[Value]:
    halves = a.b.node("split", [a.product(x, bias=True)], {"dim": 1, "sizes": (N // 2, N // 2)})
    return [a.b.one("glu", halves, {"activation": "silu"})]


def glu_of_turned_halves(a: Around, x: Value) -> list[Value]:
    up, gate = a.b.node("split", [a.product(x)], {"dim": 1, "sizes": (N // 2, N // 2)})
    return [a.b.one("glu", [gate, up], {"activation": "gelu_tanh"})]


def glu_of_every_second(a: Around, x: Value) -> list[Value]:
    y = a.product(x, bias=True)
    parts = [
        a.b.one("slice", [y], {"dim": 1, "start": start, "end": N, "step": 2}) for start in (0, 1)
    ]
    return [a.b.one("glu", parts, {"activation": "silu"})]


def third_of_three(a: Around, x: Value) -> list[Value]:
    """Parts of different sizes: the result is one part, and its epilogue waits for whole rows."""
    first, _, last = a.b.node("split", [a.product(x)], {"dim": 1, "sizes": (16, 12, 16)})
    return [a.b.one("mul", [first, last])]


def gate_beside_scores(a: Around, x: Value) -> list[Value]:
    """All columns, and a unit of the last one, as a router with a shared expert has it."""
    y = a.product(x, bias=True)
    _, gate = a.b.node("split", [y], {"dim": 1, "sizes": (N - 1, 1)})
    return [y, a.b.one("sigmoid", [gate])]


def units_of_unequal_parts(a: Around, x: Value) -> list[Value]:
    """Results of some columns each, with operands of as many."""
    sizes = (20, 8, 16)
    first, middle, last = a.b.node("split", [a.product(x)], {"dim": 1, "sizes": sizes})
    return [
        a.b.one("relu", [first]),
        a.b.one("add", [middle, a.input("residual", a.rows, sizes[1])]),
        a.b.one("mul", [last, a.weight("scale", sizes[2])]),
    ]


def one_column(a: Around, x: Value) -> list[Value]:
    """A gate for each row."""
    return [a.b.one("sigmoid", [a.product(x, bias=True, n=1)])]


def normed(a: Around, x: Value) -> list[Value]:
    """A norm of each head of the product, which needs more than some columns of it."""
    heads = a.b.one("reshape", [a.product(x, bias=True)], {"shape": (a.rows, 4, N // 4)})
    return [a.b.one("rms_norm", [heads, a.weight("after.weight", N // 4)], {"eps": 1e-5})]


def normed_and_added(a: Around, x: Value) -> list[Value]:
    norm = a.b.one("rms_norm", [a.product(x), a.weight("after.weight", N)], {"eps": 1e-5})
    return [a.b.one("add", [a.input("residual", a.rows, N), norm])]


BEFORE: tuple[Before, ...] = (plain, rms_norm, layer_norm, gathered, gated)
AFTER: tuple[After, ...] = (
    nothing,
    biased,
    residual,
    gelu,
    capped_and_wide,
    two_results,
    glu_of_halves,
    glu_of_turned_halves,
    glu_of_every_second,
    third_of_three,
    normed,
    normed_and_added,
)
# Results of other columns than the product's.
SOME_COLUMNS: tuple[After, ...] = (gate_beside_scores, units_of_unequal_parts, one_column)
# How many parts the weight has, where it is not one.
PARTS: Mapping[After, int] = {glu_of_halves: 2, glu_of_turned_halves: 2, glu_of_every_second: 2}
WHOLE_ROWS: tuple[After, ...] = (third_of_three, normed, normed_and_added)


def linear_case(before: Before, after: After, dtype: DType, bits: int = 0) -> tuple[Graph, Region]:
    """The graph, and all of it as one region."""
    around = Around(dtype, bits)
    graph = around.b.finish(after(around, before(around)))
    region = make_region(graph, range(len(graph.nodes)), family="linear", name="linear")
    return graph, region

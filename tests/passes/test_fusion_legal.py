"""What one kernel may compute, and the reasons for what it may not."""

import pytest

from graphopt.ir.builder import GraphBuilder
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph, Value
from graphopt.ir.shape import sym
from graphopt.ir.types import TensorType
from graphopt.passes.fusion_legal import (
    family_of,
    may_follow,
    may_join,
    may_precede,
    nothing_between,
    space_of,
)
from graphopt.passes.groups import Groups

T = sym("T")
ROWS = TensorType(DType.F32, (T, 8))


class Bench:
    """A graph in the making, with values to start from."""

    def __init__(self) -> None:
        self.b = GraphBuilder("g")
        self.x = self.b.input("x", ROWS)
        self.w = self.b.weight("w", TensorType(DType.F32, (8, 8)))
        self.v = self.b.weight("v", TensorType(DType.F32, (8,)))

    def __call__(self, op: str, *inputs: Value, **attrs: object) -> Value:
        return self.b.one(op, list(inputs), attrs)  # type: ignore[arg-type]

    def groups(self, *outputs: Value) -> Groups:
        graph = self.b.finish(list(outputs))
        return Groups(graph, {n: f for n in graph.nodes if (f := family_of(graph, n))})


def of(groups: Groups, value: Value):  # type: ignore[no-untyped-def]
    return groups.of(groups.graph.producers[value])


def family(graph: Graph, place: int = -1) -> str:
    found = family_of(graph, graph.nodes[place])
    return found[0] if found else ""


@pytest.mark.parametrize(
    ("op", "attrs", "expected"),
    [
        ("exp", {}, "pointwise"),
        ("cast", {"dtype": DType.BF16}, "pointwise"),
        ("flip", {"dims": (1,)}, "pointwise"),
        ("sum", {"dims": (1,)}, "row"),
        ("sum", {"dims": (0,)}, "opaque"),
        ("mean", {"dims": (0, 1)}, "opaque"),
        ("softmax", {"dim": 1}, "row"),
        ("softmax", {"dim": 0}, "opaque"),
        ("rms_norm", {"eps": 1e-6}, "row"),
        ("layer_norm", {"eps": 1e-6, "axes": 2, "has_weight": False, "has_bias": False}, "opaque"),
        ("cumsum", {"dim": 1}, "opaque"),
        ("reshape", {"shape": (8, T)}, "view"),
    ],
)
def test_families(op: str, attrs: dict[str, object], expected: str) -> None:
    bench = Bench()
    graph = bench.b.finish([bench(op, bench.x, **attrs)])
    assert family(graph) == expected


def test_a_change_of_shape_that_nobody_returns_has_no_family() -> None:
    bench = Bench()
    graph = bench.b.finish([bench("exp", bench("reshape", bench.x, shape=(8, T)))])
    assert family(graph, 0) == ""
    assert space_of(graph.nodes[1]) == (8, T)


def test_pointwise_work_of_one_size_joins_through_other_shapes() -> None:
    bench = Bench()
    first = bench("exp", bench.x)
    second = bench("neg", bench("reshape", first, shape=(8 * T,)))
    groups = bench.groups(second)
    assert may_join(groups, of(groups, first), of(groups, second)).accepted


def test_pointwise_work_of_other_sizes_does_not() -> None:
    bench = Bench()
    first = bench("exp", bench.x)
    second = bench("neg", bench("slice", first, dim=1, start=0, end=4))
    groups = bench.groups(second)
    verdict = may_join(groups, of(groups, first), of(groups, second))
    assert verdict.reason == "they walk over [T, 8] and [T, 4]"


def test_a_row_that_is_read_as_a_column_fills_what_reads_it() -> None:
    bench = Bench()
    row = bench("exp", bench.b.input("p", TensorType(DType.F32, (1, T))))
    out = bench("mul", bench("reshape", row, shape=(T, 1)), bench.v)
    across = bench(
        "mul", bench("reshape", row, shape=(1, T)), bench("reshape", bench.x, shape=(8, T))
    )
    groups = bench.groups(out, across)
    assert may_join(groups, of(groups, row), of(groups, out)).accepted
    assert may_join(groups, of(groups, row), of(groups, across)).accepted


def test_rows_join_rows_and_what_is_one_number_a_row() -> None:
    bench = Bench()
    total = bench("sum", bench.x, dims=(1,), keepdim=True)
    half = bench("mul", total, scalar=0.5)
    out = bench("sub", bench.x, half)
    groups = bench.groups(out)
    assert may_join(groups, of(groups, total), of(groups, half)).accepted
    verdict = may_join(groups, of(groups, total), of(groups, out))
    assert verdict.reason == "something between them has to run first"
    merged = groups.merge(of(groups, total), of(groups, half), "row", None)
    assert may_join(groups, merged, of(groups, out)).accepted


def test_other_rows_do_not_join() -> None:
    bench = Bench()
    first = bench("rms_norm", bench.x, eps=1e-6)
    heads = bench("reshape", first, shape=(T, 2, 4))
    second = bench("rms_norm", heads, eps=1e-6)
    groups = bench.groups(second)
    verdict = may_join(groups, of(groups, first), of(groups, second))
    assert verdict.reason == "their rows differ: [T, 8] and [T, 2, 4]"


def test_reading_other_places_of_what_is_being_made() -> None:
    bench = Bench()
    normed = bench("rms_norm", bench.x, eps=1e-6)
    turned = bench("flip", normed, dims=(1,))
    groups = bench.groups(turned)
    verdict = may_join(groups, of(groups, normed), of(groups, turned))
    assert verdict.reason == "flip reads other places of what the kernel is still making"
    bench = Bench()
    moved = bench("exp", bench.x)
    turned = bench("flip", moved, dims=(1,))
    groups = bench.groups(turned)
    assert may_join(groups, of(groups, moved), of(groups, turned)).accepted


@pytest.mark.parametrize(
    ("op", "attrs"),
    [("permute", {"dims": (1, 0)}), ("slice", {"dim": 0, "start": 0, "end": 1})],
)
def test_a_view_of_other_rows_of_what_is_being_made(op: str, attrs: dict[str, object]) -> None:
    """Shapes agree, and yet a row needs what the programs of other rows make."""
    bench = Bench()
    square = bench.b.weight("s", TensorType(DType.F32, (8, 8)))
    normed, product = bench("rms_norm", square, eps=1e-6), bench("linear", square, bench.w)
    doubled = bench("exp", square)
    outs = [bench("mul", bench(op, one, **attrs), one) for one in (normed, product, doubled)]
    groups = bench.groups(*outs)
    by_row = may_join(groups, of(groups, normed), of(groups, outs[0]))
    assert by_row.reason == f"{op} reads other places of what the kernel is still making"
    by_tile = may_follow(groups, of(groups, product), of(groups, outs[1]))
    assert by_tile.reason == f"{op} moves elements from tile to tile"
    assert may_join(groups, of(groups, doubled), of(groups, outs[2])).accepted


def test_a_transposed_norm_is_no_prologue() -> None:
    bench = Bench()
    square = bench.b.weight("s", TensorType(DType.F32, (8, 8)))
    normed = bench("rms_norm", square, eps=1e-6)
    y = bench("linear", bench("permute", normed, dims=(1, 0)), bench.w)
    groups = bench.groups(y)
    verdict = may_precede(groups, of(groups, normed), of(groups, y))
    assert verdict.reason == "permute gives the linear map other rows than the norm's"


def test_parts_of_a_row_are_of_that_row() -> None:
    bench = Bench()
    y = bench("linear", bench.x, bench.w)
    halves = bench("reshape", y, shape=(T, 2, 4))
    parts = [bench("select", halves, dim=1, index=i) for i in (0, 1)]
    out = bench("glu", *parts)
    groups = bench.groups(out)
    assert may_follow(groups, of(groups, y), of(groups, out)).accepted


def test_an_opaque_node_joins_nothing() -> None:
    bench = Bench()
    first = bench("cumsum", bench.x, dim=1)
    second = bench("exp", first)
    groups = bench.groups(second)
    assert (
        "opaque region takes no part"
        in may_join(groups, of(groups, first), of(groups, second)).reason
    )


def test_epilogues() -> None:
    bench = Bench()
    y = bench("linear", bench.x, bench.w)
    parts = bench.b.node("split", [y], {"sizes": (4, 4), "dim": 1})
    cases = {
        bench("add", y, bench.x): "",
        bench("mul", y, bench.v): "",
        bench("glu", *parts): "",
        bench("relu", bench("reshape", y, shape=(T, 2, 4))): "",
        bench("rms_norm", y, eps=1e-6): "a row region needs more than one tile of the result",
        bench("flip", y, dims=(1,)): "flip moves elements from tile to tile",
        bench("relu", bench("slice", y, dim=1, start=0, end=3)): (
            "it walks over [T, 3], not over the result's [T, 8]"
        ),
    }
    groups = bench.groups(*cases)
    for value, reason in cases.items():
        verdict = may_follow(groups, of(groups, y), of(groups, value))
        assert (verdict.accepted, verdict.reason) == (not reason, reason)


def linear_after(bench: Bench, value: Value) -> Value:
    return bench("linear", value, bench.w)


def test_prologues() -> None:
    bench = Bench()
    norm = bench("rms_norm", bench.x, bench.v, eps=1e-6)
    twice = bench("rms_norm", bench("neg", bench.x), eps=1e-6)
    layer = bench("layer_norm", bench.x, eps=1e-6, has_weight=False, has_bias=False)
    gate = bench("mul", bench.x, bench("exp", bench.x))
    cases = {
        norm: "",
        gate: "",
        twice: "its result is read elsewhere too",
        layer: "the mean has to be known before the first product",
        bench("flip", bench.x, dims=(1,)): "flip is no work on one row of the input",
        bench("softmax", bench.x, dim=1): "softmax is no work on one row of the input",
    }
    linears = {value: linear_after(bench, value) for value in cases}
    groups = bench.groups(*linears.values(), bench("relu", twice))
    for value, reason in cases.items():
        verdict = may_precede(groups, of(groups, value), of(groups, linears[value]))
        assert (verdict.accepted, verdict.reason) == (not reason, reason)


def test_something_between() -> None:
    bench = Bench()
    first = bench("exp", bench.x)
    second = bench("cumsum", first, dim=1)
    third = bench("add", first, second)
    groups = bench.groups(third)
    verdict = nothing_between(groups, of(groups, first), of(groups, third))
    assert verdict.reason == "something between them has to run first"
    assert verdict.culprits == (str(second),)

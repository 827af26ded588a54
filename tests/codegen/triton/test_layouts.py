"""Which weights lie in chunks, which do not, and what would read them otherwise."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

import graphopt.codegen.triton.backend as module
from graphopt.codegen.triton.backend import TritonBackend
from graphopt.codegen.triton.layouts import misread, packings_of
from graphopt.gpu_packing import GpuPacking
from graphopt.ir.builder import GraphBuilder
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph, Value
from graphopt.ir.shape import sym
from graphopt.ir.types import TensorType
from graphopt.ledger import refuse
from graphopt.region import Region, make_region

T = sym("T")
ROWS, COLUMNS, GROUP = 130, 96, 32
WHOLE = GpuPacking.whole(ROWS, COLUMNS, 4, GROUP)
BOTH = {"w": WHOLE, "s": WHOLE.scales}
Weights = tuple[Value, Value]
Case = tuple[Graph, list[Region]]


def case(make: Callable[[GraphBuilder, Value, Weights], Sequence[Value]], families: str) -> Case:
    """A graph over a quantized weight, each of its nodes a region of its own."""
    b = GraphBuilder("case")
    x = b.input("x", TensorType(DType.BF16, (T, COLUMNS)))
    weights = (
        b.weight("w", TensorType(DType.I8, (ROWS, COLUMNS))),
        b.weight("s", TensorType(DType.F16, (ROWS, COLUMNS // GROUP))),
    )
    graph = b.finish(make(b, x, weights))
    places = enumerate(families.split())
    return graph, [make_region(graph, [place], family=family) for place, family in places]


def product(b: GraphBuilder, x: Value, weights: Weights) -> Value:
    return b.one(
        "quantized_linear", [x, *weights], {"bits": 4, "group": GROUP, "weight_only": True}
    )


def embedding(b: GraphBuilder, weights: Weights) -> Value:
    ids = b.input("ids", TensorType(DType.I64, (T,)))
    attrs = {"bits": 4, "group": GROUP, "dtype": DType.BF16, "scale": 1.0}
    return b.one("quantized_embed", [ids, *weights], attrs)


def one(b: GraphBuilder, x: Value, w: Weights) -> Sequence[Value]:
    return [product(b, x, w)]


def tied(b: GraphBuilder, x: Value, w: Weights) -> Sequence[Value]:
    return [product(b, embedding(b, w), w)]


def with_a_view(b: GraphBuilder, x: Value, w: Weights) -> Sequence[Value]:
    return [product(b, x, w), b.one("permute", [w[0]], {"dims": (1, 0)})]


def with_other_scales(b: GraphBuilder, x: Value, w: Weights) -> Sequence[Value]:
    others = b.weight("others", TensorType(DType.F16, (ROWS, COLUMNS // GROUP)))
    return [product(b, x, w), product(b, x, (w[0], others))]


def with_the_scales_of_another(b: GraphBuilder, x: Value, w: Weights) -> Sequence[Value]:
    other = b.weight("other", TensorType(DType.I8, (ROWS, COLUMNS)))
    return [product(b, x, w), product(b, x, (other, w[1]))]


def two_products(b: GraphBuilder, x: Value, w: Weights) -> Sequence[Value]:
    return [product(b, x, w), b.one("gelu", [product(b, x, w)])]


def test_a_product_and_its_embedding_share_chunks() -> None:
    for make, families in (
        (one, "linear"),
        (tied, "gather linear"),
        (two_products, "linear linear"),
    ):
        graph, regions = case(make, families)
        backend = TritonBackend(graph, regions, 16)
        assert backend.layouts == BOTH
        assert all(backend.claims(graph, region).accepted for region in regions)


def test_what_something_else_reads_stays_as_it_is() -> None:
    graph, regions = case(with_a_view, "linear view")
    backend = TritonBackend(graph, regions, 16)
    assert backend.layouts == {}
    refused, accepted = (backend.claims(graph, region) for region in regions)
    assert "something else reads its weight" in refused.reason
    assert accepted.accepted


def test_a_weight_has_one_pair_of_layouts() -> None:
    graph, regions = case(with_other_scales, "linear linear")
    backend = TritonBackend(graph, regions, 16)
    assert backend.layouts == {}
    assert not any(backend.claims(graph, region).accepted for region in regions)


def test_scales_have_one_layout() -> None:
    graph, regions = case(with_the_scales_of_another, "linear linear")
    backend = TritonBackend(graph, regions, 16)
    assert backend.layouts == BOTH
    verdicts = [backend.claims(graph, region).accepted for region in regions]
    assert verdicts == [True, False]


def test_parts_that_differ() -> None:
    """A gated product of every second row, and a plain one of the same weight."""
    b = GraphBuilder("parts")
    x = b.input("x", TensorType(DType.BF16, (T, 64)))
    weights = (
        b.weight("w", TensorType(DType.I8, (64, 64))),
        b.weight("s", TensorType(DType.F16, (64, 2))),
    )
    y = product(b, x, weights)
    gate, up = b.node("split", [y], {"dim": 1, "sizes": (32, 32)})
    graph = b.finish([b.one("mul", [b.one("silu", [gate]), up]), product(b, x, weights)])
    last = len(graph.nodes) - 1
    gated = make_region(graph, range(last), family="linear")
    plain = make_region(graph, [last], family="linear")
    parts = ((0, 32, 1), (32, 64, 1))
    assert packings_of(graph, [gated])["w"].parts == parts
    assert packings_of(graph, [plain])["w"] == GpuPacking.whole(64, 64, 4, 32)
    assert packings_of(graph, [gated, plain]) == {}
    backend = TritonBackend(graph, [gated, plain], 16)
    assert backend.layouts == {}
    for region in (gated, plain):
        assert "not in the same parts" in backend.claims(graph, region).reason


def test_nothing_is_packed_for_kernels_that_there_are_not() -> None:
    """In f32 no product is in few bits: the table stays as it is, and its rows are read so."""
    b = GraphBuilder("wide")
    x = b.input("x", TensorType(DType.F32, (T, COLUMNS)))
    weights = (
        b.weight("w", TensorType(DType.I8, (ROWS, COLUMNS))),
        b.weight("s", TensorType(DType.F16, (ROWS, COLUMNS // GROUP))),
    )
    graph = b.finish([embedding(b, weights), product(b, x, weights)])
    regions = [make_region(graph, [n], family=name) for n, name in enumerate(("gather", "linear"))]
    backend = TritonBackend(graph, regions, 16)
    assert [backend.claims(graph, region).accepted for region in regions] == [True, False]
    assert backend.layouts == {}


def test_another_family_does_not_read_chunks() -> None:
    graph, (region,) = case(one, "linear")
    assert misread(graph, region, BOTH) is None
    view = case(with_a_view, "linear matmul")
    found = misread(view[0], view[1][1], BOTH)
    assert found is not None
    assert "row after row" in found.reason
    missing = misread(graph, region, {"w": WHOLE})
    assert missing is not None
    assert missing.culprits


def test_only_what_a_kernel_reads_is_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A product that does not run on the GPU is PyTorch's, and its weight lies as it was."""
    graph, regions = case(one, "linear")
    backend = TritonBackend(graph, regions, 16)
    monkeypatch.setattr(
        module, "build_all", lambda requests, arch, **_: [refuse("too large") for _ in requests]
    )
    backend.compile("sm_90", {})
    assert not backend.claims(graph, regions[0]).accepted
    assert backend.layouts == {}
